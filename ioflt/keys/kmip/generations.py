"""Generations of homes as attributes of their KEKs on KMIP servers, for hosts that remember nothing of them.

One attribute for each home, as homes may share a key: `x-ioflt-Generation-<home id>`, a decimal text. All of
it is best effort and bounded: an answer has `LIMIT_S`, after a failure the servers are left alone for
`PAUSE_S`, and who once said that they have no such attributes is not asked again.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

import trio

from ioflt.errors import KeyUnavailableError, ProviderUnavailable
from ioflt.keys.kmip.keys import AttributesRefused, KmipKeys

#: Seconds for all that is asked about one generation.
LIMIT_S: Final = 2.0

#: Seconds for which servers that did not answer are not asked about generations again.
PAUSE_S: Final = 30.0

_NAME: Final = "x-ioflt-Generation-"
_COUNT: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_MAX: Final = 2**63 - 1

_R = TypeVar("_R")

_log = logging.getLogger(__name__)


class _Servers(Protocol):
    """What is needed of `provider.KmipProvider`."""

    @property
    def name(self) -> str: ...

    def call(self, ask: Callable[[KmipKeys], Awaitable[_R]]) -> _R: ...


class KmipGenerations:
    """A `keys.provider.Generations`. Safe for several threads."""

    def __init__(self, servers: _Servers) -> None:
        self._servers = servers
        self._lock = threading.Lock()  # the two below
        self._refused = False
        self._silent_until = 0.0

    def seen(self, key_id: str, home_id: str) -> int:
        async def ask(keys: KmipKeys) -> int:
            return _highest(await keys.texts(key_id, _NAME + home_id))

        return 0 if self._refused else self._call(ask)

    def note(self, key_id: str, home_id: str, generation: int) -> None:
        async def ask(keys: KmipKeys) -> None:
            name = _NAME + home_id
            there = await keys.texts(key_id, name)
            if _highest(there) < generation:
                await keys.set_text(key_id, name, str(generation), new=not there)

        if self._refused:
            return
        try:
            self._call(ask)
        except AttributesRefused as error:
            with self._lock:
                self._refused = True
            _log.info("%s: its servers keep no generations of homes: %s", self._servers.name, error)

    def _call(self, ask: Callable[[KmipKeys], Awaitable[_R]]) -> _R:
        if time.monotonic() < self._silent_until:
            raise ProviderUnavailable(f"the key servers of {self._servers.name} did not answer just now")

        async def bounded(keys: KmipKeys) -> _R:
            try:
                with trio.fail_after(LIMIT_S):
                    return await ask(keys)
            except trio.TooSlowError:
                what = f"the key servers of {self._servers.name} do not answer"
                raise ProviderUnavailable(f"{what} within {LIMIT_S:g} seconds") from None

        try:
            return self._servers.call(bounded)
        except KeyUnavailableError as error:
            if isinstance(error, ProviderUnavailable):
                with self._lock:
                    self._silent_until = time.monotonic() + PAUSE_S
            raise


def _highest(texts: list[str]) -> int:
    """The highest of the counts among the texts; 0 when there is none."""
    return max((int(text) for text in texts if _COUNT.fullmatch(text) and int(text) <= _MAX), default=0)
