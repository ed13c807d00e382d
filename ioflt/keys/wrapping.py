"""Key providers whose KEKs we make, and a key wraps that stays elsewhere: on a server, in an HSM.

Nothing is stored for a KEK, here or there: its key id carries it, wrapped. So a host that may use the
wrapping key opens a datastore with nothing but a provider of that name.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
import uuid
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Final, ParamSpec, TypeVar

import msgspec

from ioflt.crypto.secret import Secret
from ioflt.errors import KeyCorrupt, KeyNotFound, KeyUnavailableError, ProviderUnavailable
from ioflt.keys.provider import KEK_SIZE
from ioflt.keys.remote import RemoteProvider
from ioflt.types import MAX_KEY_ID

#: Seconds for which nobody asks again who let the time limit pass.
PAUSE_S: Final = 10.0

_P = ParamSpec("_P")
_R = TypeVar("_R")

_KEY_ID: Final = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.(.+)")


class Wrapped(msgspec.Struct, frozen=True):
    """A KEK as it was wrapped, and what it was bound to."""

    ciphertext: str
    associated_data: bytes


class WrappingProvider(RemoteProvider):
    """The part of a `keys.provider.KeyProvider` that knows key ids. Safe for several threads.

    Whoever has the wrapping key and lets the time limit pass is left alone for `PAUSE_S`: all who need a key
    would wait for it, one after the other.
    """

    #: How a ciphertext looks; its group is the base64 in it.
    form: ClassVar[re.Pattern[str]]

    #: Most KEKs that are unwrapped in one request.
    batch: ClassVar[int]

    def __init__(self) -> None:
        super().__init__()
        self._silent_until = 0.0

    @property
    @abstractmethod
    def wrapper(self) -> str:
        """What has the wrapping key, as messages name it."""

    @property
    @abstractmethod
    def timeout(self) -> float:
        """Seconds that it has for an answer."""

    @abstractmethod
    def _wrap(self, kek: Secret, associated_data: bytes) -> str:
        """The ciphertext of a KEK. Raises KeyUnavailableError."""

    @abstractmethod
    def _unwrap(self, wrapped: Sequence[Wrapped]) -> list[Secret | KeyUnavailableError]:
        """The KEK or why there is none, for each of at most `batch`. Raises KeyUnavailableError for all."""

    def create(self) -> str:
        """A new KEK's id, which was seen to be unwrapped again."""
        ident = str(uuid.uuid4())
        with Secret.random(KEK_SIZE) as kek:
            key_id = f"{ident}.{self._ask_wrapper(self._wrap, kek, bound_to(ident))}"
            if self.parse(key_id) is None:
                raise ProviderUnavailable(f"{self.wrapper} wraps in a form that is not known")
            (back,) = self.get([key_id])
            if isinstance(back, KeyUnavailableError):
                raise back
            with back:
                if back != kek:
                    raise KeyCorrupt(f"{self.wrapper} unwraps another key than it wrapped")
        return key_id

    def get(self, ids: Sequence[str]) -> list[Secret | KeyUnavailableError]:
        """The KEKs, unwrapped again at each call."""
        wrapped = {
            key_id: found for key_id in dict.fromkeys(ids) if (found := self.parse(key_id)) is not None
        }
        wanted = list(wrapped)
        known: dict[str, Secret | KeyUnavailableError] = {}
        for start in range(0, len(wanted), self.batch):
            part = wanted[start : start + self.batch]
            try:
                keys = self._ask_wrapper(self._unwrap, [wrapped[key_id] for key_id in part])
            except KeyUnavailableError as error:
                known |= dict.fromkeys(wanted[start:], error)  # no second time-out for the rest
                break
            known |= zip(part, keys, strict=True)
        return [self._answer(known, key_id) for key_id in ids]

    def activate(self, key_id: str) -> None:
        """Keys that are wrapped have no states."""

    @classmethod
    def parse(cls, key_id: str) -> Wrapped | None:
        """What a key id carries, None when it is not one of this kind of provider's."""
        found = _KEY_ID.fullmatch(key_id) if len(key_id) <= MAX_KEY_ID else None
        if found is None:
            return None
        ciphertext = cls.form.fullmatch(found[2])
        if ciphertext is None or not _is_canonical(ciphertext[1]):
            return None
        return Wrapped(found[2], bound_to(found[1]))

    def _ask_wrapper(self, ask: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        begin = time.monotonic()
        if self._trouble and begin < self._silent_until:
            self._refuse_if_locked()
            raise ProviderUnavailable(self._trouble)
        try:
            return ask(*args, **kwargs)
        except ProviderUnavailable:
            end = time.monotonic()
            if end - begin >= self.timeout:
                self._silent_until = end + PAUSE_S
            raise

    def _answer(
        self, known: dict[str, Secret | KeyUnavailableError], key_id: str
    ) -> Secret | KeyUnavailableError:
        found = known.get(key_id)
        if found is None:
            return KeyNotFound(f"the provider {self.name} did not make the key {key_id[:80]}")
        return Secret(found.view()) if isinstance(found, Secret) else found


def bound_to(ident: str) -> bytes:
    """What a wrapped KEK is bound to: to be one of ours, and to its own name."""
    return f"ioflt kek {ident}".encode()


def _is_canonical(text: str) -> bool:
    """Whether these bytes have no other spelling in base64: a key has one id."""
    try:
        return base64.b64encode(base64.b64decode(text, validate=True)).decode() == text
    except binascii.Error:
        return False
