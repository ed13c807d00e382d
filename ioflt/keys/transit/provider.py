"""The transit provider: KEKs wrapped by a key that never leaves its server (OpenBao, Vault)."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from ioflt.crypto import certificates
from ioflt.crypto.certificates import Certificate
from ioflt.crypto.secret import Secret
from ioflt.errors import IofltError, KeyUnavailableError, ProviderUnavailable
from ioflt.keys.remote import credential
from ioflt.keys.transit.file import CertificateLogin, TransitFile
from ioflt.keys.transit.server import BATCH, TokenRefused, TransitServer
from ioflt.keys.wrapping import Wrapped, WrappingProvider

_R = TypeVar("_R")


class TransitProvider(WrappingProvider):
    """One provider file's keys. A `keys.provider.KeyProvider`."""

    kind = "transit"
    form = re.compile(r"vault:v[1-9][0-9]{0,8}:([0-9A-Za-z+/]+={0,2})")
    batch = BATCH

    def __init__(self, file: TransitFile) -> None:
        super().__init__()
        self.file = file
        self._logging_in = threading.Lock()
        self._server: TransitServer | None = None
        self._failure: tuple[float, KeyUnavailableError] | None = None  # to log in: the last one, and when

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def wrapper(self) -> str:
        return f"the key server of {self.name}"

    @property
    def timeout(self) -> float:
        return self.file.timeout

    def close(self) -> None:
        """Forget the login. The next call makes another."""
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.close()

    def change(self, file: TransitFile) -> None:
        """Go on with what the file says now."""
        self._trouble = ""
        if file != self.file:
            self.file = file
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
        with credential(self.file.login.file, self.name) as content:
            return certificates.read(str(content.view(), "ascii", "replace"))[0]

    def _wrap(self, kek: Secret, associated_data: bytes) -> str:
        return self._call(lambda server: server.wrap(kek, associated_data))

    def _unwrap(self, wrapped: Sequence[Wrapped]) -> list[Secret | KeyUnavailableError]:
        return self._call(lambda server: server.unwrap(wrapped))

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
