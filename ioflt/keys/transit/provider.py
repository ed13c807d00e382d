"""The transit provider: KEKs that we make, wrapped by a key that never leaves its server (OpenBao, Vault).

Nothing is stored for a KEK, here or there: its key id carries it, wrapped. So a host that may ask the server
opens a datastore with nothing but a provider of that name.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from ioflt.crypto import certificates
from ioflt.crypto.certificates import Certificate
from ioflt.crypto.secret import Secret
from ioflt.errors import (
    IofltError,
    KeyCorrupt,
    KeyNotFound,
    KeyUnavailableError,
    ProviderUnavailable,
)
from ioflt.keys.provider import KEK_SIZE
from ioflt.keys.remote import RemoteProvider
from ioflt.keys.transit.file import CertificateLogin, TransitFile
from ioflt.keys.transit.server import BATCH, TokenRefused, TransitServer, Wrapped, credential
from ioflt.types import MAX_KEY_ID

_KEY_ID: Final = re.compile(
    r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.(vault:v[1-9][0-9]{0,8}:([0-9A-Za-z+/]+={0,2}))"
)

_R = TypeVar("_R")


class TransitProvider(RemoteProvider):
    """One provider file's keys. A `keys.provider.KeyProvider`."""

    kind = "transit"

    def __init__(self, file: TransitFile) -> None:
        super().__init__()
        self.file = file
        self._logging_in = threading.Lock()
        self._server: TransitServer | None = None
        self._failure: tuple[float, KeyUnavailableError] | None = None  # to log in: the last one, and when

    @property
    def name(self) -> str:
        return self.file.name

    def create(self) -> str:
        """A new KEK's id, which the server was seen to unwrap again."""
        ident = str(uuid.uuid4())
        with Secret.random(KEK_SIZE) as kek:
            ciphertext = self._call(lambda server: server.wrap(kek, _bound_to(ident)))
            key_id = f"{ident}.{ciphertext}"
            if _parse(key_id) is None:
                raise ProviderUnavailable(f"the key server of {self.name} wraps in a form that is not known")
            (back,) = self.get([key_id])
            if isinstance(back, KeyUnavailableError):
                raise back
            with back:
                if back != kek:
                    raise KeyCorrupt(f"the key server of {self.name} unwraps another key than it wrapped")
        return key_id

    def get(self, ids: Sequence[str]) -> list[Secret | KeyUnavailableError]:
        """The KEKs, unwrapped again at each call."""
        wrapped = {key_id: found for key_id in dict.fromkeys(ids) if (found := _parse(key_id)) is not None}
        wanted = list(wrapped)
        known: dict[str, Secret | KeyUnavailableError] = {}
        for start in range(0, len(wanted), BATCH):
            part = wanted[start : start + BATCH]
            try:
                keys = self._unwrap([wrapped[key_id] for key_id in part])
            except KeyUnavailableError as error:
                known |= dict.fromkeys(wanted[start:], error)  # no second time-out for the rest
                break
            known |= zip(part, keys, strict=True)
        return [self._answer(known, key_id) for key_id in ids]

    def close(self) -> None:
        """Forget the login. The next call makes another."""
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.close()

    def change(self, file: TransitFile) -> None:
        """Go on with what the file says now."""
        if file != self.file:
            self.file = file
            self._trouble = ""
            self.close()

    def opened_by(self) -> str:
        return str(self.file.login.__struct_config__.tag)

    def warnings(self) -> list[str]:
        """Certificates that expire soon, or did."""
        held = [
            (f"the trusted certificate {one.subject}", one) for one in certificates.read(self.file.anchors)
        ]
        if isinstance(self.file.login, CertificateLogin):
            with contextlib.suppress(IofltError):  # whoever needs it will be told
                held.append((f"the certificate in {self.file.login.file}", self._own_certificate()))
        return self._expiring(held)

    def _own_certificate(self) -> Certificate:
        with credential(self.file) as content:
            return certificates.read(str(content.view(), "ascii", "replace"))[0]

    def _unwrap(self, wrapped: list[Wrapped]) -> list[Secret | KeyUnavailableError]:
        return self._call(lambda server: server.unwrap(wrapped))

    def _answer(
        self, known: dict[str, Secret | KeyUnavailableError], key_id: str
    ) -> Secret | KeyUnavailableError:
        found = known.get(key_id)
        if found is None:
            return KeyNotFound(f"the provider {self.name} did not make the key {key_id[:80]}")
        return Secret(found.view()) if isinstance(found, Secret) else found

    def _call(self, ask: Callable[[TransitServer], _R]) -> _R:
        """Ask the server something; once more after a new login, as tokens expire and are replaced."""
        try:
            try:
                result = self._ask(ask)
            except TokenRefused:
                result = self._ask(ask)
        except ProviderUnavailable as error:
            self._trouble = error.message
            raise
        except KeyUnavailableError:
            self._trouble = ""
            raise
        self._trouble = ""
        return result

    def _ask(self, ask: Callable[[TransitServer], _R]) -> _R:
        server = self._logged_in()
        try:
            result = ask(server)
        except ProviderUnavailable:
            self._drop(server)
            raise
        self._refuse_if_locked()
        return result

    def _logged_in(self) -> TransitServer:
        asked = time.monotonic()
        with self._logging_in:  # once for all who want it
            with self._lock:
                self._refuse_if_locked()
                file, server = self.file, self._server
            if server is not None and server.file == file:
                return server
            if self._failure is not None and self._failure[0] >= asked:
                raise type(self._failure[1])(self._failure[1].message)
            try:
                server = TransitServer(file)
            except KeyUnavailableError as error:
                self._failure = time.monotonic(), error
                raise
            with self._lock:
                old, self._server = self._server, server
            if old is not None:
                old.close()
        if self._locked:
            self._drop(server)
            self._refuse_if_locked()
        return server

    def _drop(self, server: TransitServer) -> None:
        with self._lock:
            if self._server is server:
                self._server = None
        server.close()


def _bound_to(ident: str) -> bytes:
    """What a wrapped KEK is bound to: to be one of ours, and to its own name."""
    return f"ioflt kek {ident}".encode()


def _parse(key_id: str) -> Wrapped | None:
    """What a key id carries, None when it is not one of this provider's."""
    found = _KEY_ID.fullmatch(key_id) if len(key_id) <= MAX_KEY_ID else None
    if found is None or not _is_canonical(found[3]):
        return None
    return Wrapped(found[2], _bound_to(found[1]))


def _is_canonical(text: str) -> bool:
    """Whether these bytes have no other spelling in base64: a key has one id."""
    try:
        return base64.b64encode(base64.b64decode(text, validate=True)).decode() == text
    except binascii.Error:
        return False
