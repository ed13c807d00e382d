"""The kmip provider: keys of a cluster of KMIP servers, for callers that block.

Threads: the network is the business of one trio loop in a thread of its own, which starts with the first call
and ends with `lock` or `close`. Calls from any number of threads go there and wait. `_lock` guards which loop
there is; nobody waits for a server while holding it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import ParamSpec, TypeVar

import trio

import ioflt
from ioflt.crypto import certificates
from ioflt.crypto.secret import Secret
from ioflt.errors import (
    IofltError,
    KeyUnavailableError,
    ProviderUnavailable,
)
from ioflt.keys.kmip.cluster import Cluster
from ioflt.keys.kmip.file import KmipFile
from ioflt.keys.kmip.generations import KmipGenerations
from ioflt.keys.kmip.keys import Closed, KmipKeys
from ioflt.keys.kmip.store import KmipStore
from ioflt.keys.remote import RemoteProvider
from ioflt.transport.tls import Trust

_P = ParamSpec("_P")
_R = TypeVar("_R")

_log = logging.getLogger(__name__)


class KmipProvider(RemoteProvider):
    """One provider file's keys. A `keys.provider.KeyProvider`."""

    kind = "kmip"

    def __init__(self, file: KmipFile, store: KmipStore) -> None:
        super().__init__()
        self.file = file
        self._store = store
        self._loop: _Loop | None = None
        self.generations = KmipGenerations(self)
        self._stamp = self._stamp_of_identity()

    @property
    def name(self) -> str:
        return self.file.name

    def create(self) -> str:
        """A new active key on the servers, tagged as vSphere tags its keys."""
        return self.call(lambda keys: keys.create(self.tags()))

    def get(self, ids: Sequence[str]) -> list[Secret | KeyUnavailableError]:
        """The keys, fetched again at each call."""
        if not ids:
            return []
        found = self._fetch(ids)
        if any(isinstance(one, Closed) for one in found):  # by `change`: the servers may be others now
            found = self._fetch(ids)
        return [ProviderUnavailable(one.message) if isinstance(one, Closed) else one for one in found]

    def activate(self, key_id: str) -> None:
        """As vSphere does before it uses a key: one that is pre-active becomes active."""
        self.call(lambda keys: keys.activate(key_id))

    def close(self) -> None:
        """Close the connections. The next call opens others."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop()

    def change(self, file: KmipFile) -> None:
        """Go on with what the files say now; connections are made again if they say something else."""
        stamp = self._stamp_of_identity()
        if (file, stamp) != (self.file, self._stamp):
            self.file, self._stamp = file, stamp
            self._trouble = ""
            self.generations = KmipGenerations(self)
            self.close()

    def opened_by(self) -> str:
        return "client certificate"

    def warnings(self) -> list[str]:
        """Certificates that expire soon, or did."""
        ours = self._store.certificate(self.name)
        held = [] if ours is None else [("the client certificate", ours)]
        anchors = certificates.read(self.file.anchors) if self.file.anchors else []
        return self._expiring(held + [(f"the trusted certificate {one.subject}", one) for one in anchors])

    def call(self, ask: Callable[[KmipKeys], Awaitable[_R]]) -> _R:
        """Ask the servers something, from any thread. Raises KeyUnavailableError."""
        missing = self.missing()
        if missing:
            raise ProviderUnavailable(missing)
        try:
            with self._lock:
                self._refuse_if_locked()
                if self._loop is None or not self._loop.alive:
                    self._loop = _Loop(self.file, self._store.trust(self.file))
                loop = self._loop
            result = loop.call(ask)
        except ProviderUnavailable as error:
            self._trouble = error.message
            raise
        except KeyUnavailableError:
            self._trouble = ""
            raise
        except IofltError as error:
            self._trouble = f"the key provider {self.name}: {error}"
            raise ProviderUnavailable(self._trouble) from error
        failed = (
            [one for one in result if isinstance(one, ProviderUnavailable)]
            if isinstance(result, list)
            else []
        )
        self._trouble = failed[0].message if failed else ""
        return result

    def _fetch(self, ids: Sequence[str]) -> list[Secret | KeyUnavailableError]:
        try:
            return self.call(lambda keys: keys.fetch(ids))
        except KeyUnavailableError as error:
            return [error] * len(ids)

    def _stamp_of_identity(self) -> tuple[int, int] | None:
        """Changes whenever the file with our certificate does."""
        try:
            found = self._store.identity(self.name).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def missing(self) -> str:
        if not self.file.anchors:
            return f"the servers of the provider {self.name} are not trusted yet"
        if not self._store.identity(self.name).exists():
            return f"the provider {self.name} has no client certificate yet"
        return ""

    def tags(self) -> list[tuple[str, str]]:
        """What a key that we make says of where it comes from."""
        return [
            ("x-Vendor", "ioflt"),
            ("x-Product", "ioflt"),
            ("x-Product_Version", ioflt.__version__),
            ("x-Component", "Key provider"),
            ("x-Name", self.name),
            ("x-Identifier", self.file.uuid),
        ]


class _Loop:
    """A trio loop in a thread, with the connections of one cluster."""

    def __init__(self, file: KmipFile, trust: Trust) -> None:
        self._file = file
        self._trust = trust
        self._ready = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._keys: KmipKeys | None = None
        self._end = trio.Event()
        self._thread = threading.Thread(target=self._run, name=f"kmip {file.name}", daemon=True)
        self._thread.start()
        self._ready.wait()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def call(self, ask: Callable[[KmipKeys], Awaitable[_R]]) -> _R:
        keys, token = self._keys, self._token
        if keys is None or token is None:
            raise ProviderUnavailable(f"the provider {self._file.name} does not run; the log says why")
        try:
            return trio.from_thread.run(ask, keys, trio_token=token)
        except (trio.RunFinishedError, trio.Cancelled):
            raise Closed(f"the provider {self._file.name} was closed") from None

    def stop(self) -> None:
        if self._token is not None:
            try:
                self._token.run_sync_soon(self._end.set)
            except trio.RunFinishedError:
                return
        self._thread.join()

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except Exception:  # a bug ends this thread, not the daemon; the next call makes another
            _log.exception("a bug, met by the provider %s", self._file.name)
        finally:
            self._ready.set()

    async def _main(self) -> None:
        with ExitStack() as at_end:
            async with trio.open_nursery() as nursery:
                cluster = Cluster(self._file, self._trust, nursery)
                at_end.callback(cluster.close)
                self._keys = KmipKeys(self._file.name, cluster, nursery)
                self._token = trio.lowlevel.current_trio_token()
                self._ready.set()
                await self._end.wait()
                nursery.cancel_scope.cancel()
