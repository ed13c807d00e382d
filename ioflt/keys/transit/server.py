"""A transit engine of OpenBao or Vault: logging in, wrapping, unwrapping. The protocol is in SPEC.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from ioflt.crypto.secret import Secret
from ioflt.errors import (
    KeyCorrupt,
    KeyNotFound,
    KeyNotUsable,
    KeyUnavailableError,
    ProviderUnavailable,
    UsageError,
)
from ioflt.keys.provider import KEK_SIZE
from ioflt.keys.remote import credential
from ioflt.keys.transit.file import CertificateLogin, TransitFile
from ioflt.keys.wrapping import Wrapped
from ioflt.transport.https import Answer, Https, HttpsFailed
from ioflt.transport.tls import Trust

#: Items of one request: the server counts the strings of a body, and refuses some 500.
BATCH: Final = 200

# What the server says of one item, as no code tells: the first pattern that fits.
_REASONS: tuple[tuple[str, type[KeyUnavailableError]], ...] = (
    ("encryption key not found|version is too new", KeyNotFound),
    ("message authentication failed|invalid ciphertext", KeyCorrupt),
    ("", KeyNotUsable),
)


class _Plain(msgspec.Struct):
    plaintext: bytearray
    associated_data: bytes


class _Request(msgspec.Struct):
    batch_input: Sequence[Wrapped | _Plain]  # the names of their fields are those of the protocol
    partial_failure_response_code: int = 200  # else one bad item makes the whole answer an error


class _CertificateRequest(msgspec.Struct, omit_defaults=True):
    name: str = ""


class _Item(msgspec.Struct):
    plaintext: bytearray | None = None  # of all types that take base64, the one that can be wiped
    ciphertext: str = ""
    error: str = ""


class _Data(msgspec.Struct):
    batch_results: list[_Item] = []


class _Auth(msgspec.Struct):
    client_token: str


class _Body(msgspec.Struct):
    data: _Data | None = None
    auth: _Auth | None = None
    errors: list[str] = []


class _TextBody(msgspec.Struct):
    errors: list[str] = []


_Kind = TypeVar("_Kind", _Body, _TextBody)


class TokenRefused(ProviderUnavailable):
    """The server does not know our token, or not any more: a new login may help."""


class TransitServer:
    """One login to the server. Safe for calls from several threads. Raises KeyUnavailableError."""

    def __init__(self, file: TransitFile) -> None:
        """Log in."""
        self.file = file
        by_certificate = isinstance(file.login, CertificateLogin)
        with credential(file.login.file, file.name) as content:
            identity = Path(file.login.file) if by_certificate else None
            try:
                context = Trust(file.anchors, identity).context()
            except UsageError as error:
                raise ProviderUnavailable(f"the provider {file.name}: {error}") from error
            self._https = Https(file.host, file.port, context, file.timeout)
            self._token = "" if by_certificate else _token(content, file)
        if by_certificate:
            try:
                self._token = self._log_in()
            except BaseException:  # half an answer may be left on it
                self.close()
                raise

    def close(self) -> None:
        """Close the connections. Requests that are under way in other threads end as they would have."""
        self._https.close()

    def wrap(self, key: Secret, associated_data: bytes) -> str:
        """The ciphertext of a key."""
        plain = bytearray(key.view())
        try:
            (item,) = self._batch("encrypt", [_Plain(plain, associated_data)])
        finally:
            plain[:] = bytes(len(plain))
        if item.error:
            raise self._reason(item.error)
        return item.ciphertext

    def unwrap(self, wrapped: Sequence[Wrapped]) -> list[Secret | KeyUnavailableError]:
        """The key or the reason why there is none, for each of at most BATCH, in order."""
        return [self._key(item) for item in self._batch("decrypt", wrapped)]

    def _batch(self, operation: str, items: Sequence[Wrapped | _Plain]) -> list[_Item]:
        path = f"{self.file.mount}/{operation}/{self.file.key}"
        with self._ask(path, _Request(items)) as answer:
            # When all items failed it is 400, in spite of what was asked for.
            if answer.status in (200, 400):
                body = self._parse(answer, _Body)
                results = body.data.batch_results if body.data else []
                if len(results) == len(items):
                    return results
                if answer.status == 400 and body.errors:
                    raise self._reason(" ".join(body.errors))
                raise self._unavailable("its answer does not fit the question")
            raise self._failure(answer)

    def _key(self, item: _Item) -> Secret | KeyUnavailableError:
        if item.error:
            return self._reason(item.error)
        plain = item.plaintext or bytearray()
        try:
            if len(plain) != KEK_SIZE:
                return KeyCorrupt(f"the key server of {self.file.name} gave {len(plain)} bytes as a key")
            return Secret(plain)
        finally:
            plain[:] = bytes(len(plain))

    def _log_in(self) -> str:
        login = self.file.login
        assert isinstance(login, CertificateLogin)  # noqa: S101  # the only kind that asks the server
        with self._ask(f"auth/{login.mount}/login", _CertificateRequest(login.role)) as answer:
            if answer.status in (400, 403):
                text = self._parse(answer, _TextBody).errors
                raise self._unavailable(f"it refuses the client certificate: {_clean(' '.join(text))}")
            if answer.status != 200:
                raise self._failure(answer)
            auth = self._parse(answer, _Body).auth
            if auth is None or not auth.client_token:
                raise self._unavailable("it logged us in without a token")
            return auth.client_token

    def _ask(self, path: str, body: msgspec.Struct | None) -> Answer:
        headers = {"X-Vault-Request": "true", "Content-Type": "application/json"}
        if self._token:
            headers["X-Vault-Token"] = self._token
        data = bytearray(256)  # holds a key's request without growing, which would leave a copy
        try:
            if body is None:
                return self._https.get(f"/v1/{path}", headers)
            msgspec.json.Encoder().encode_into(body, data)
            return self._https.post(f"/v1/{path}", headers, data)
        except HttpsFailed as error:
            raise self._unavailable(error.message) from error
        finally:
            data[:] = bytes(len(data))

    def _parse(self, answer: Answer, kind: type[_Kind]) -> _Kind:
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except (msgspec.DecodeError, RecursionError):
            raise self._unavailable("its answer is not that of a transit engine") from None

    def _failure(self, answer: Answer) -> KeyUnavailableError:
        """Why the server did nothing at all."""
        try:
            text = _clean(" ".join(msgspec.json.decode(answer.body, type=_TextBody).errors))
        except (msgspec.DecodeError, RecursionError):
            text = ""
        if answer.status == 403:
            return self._refusal(text)
        if answer.status == 404:
            return KeyNotFound(f"the key server of {self.file.name} has no engine {self.file.mount}")
        if 300 <= answer.status < 400:
            text = "it sends us to another server"
        return self._unavailable(text or f"HTTP status {answer.status}")

    def _refusal(self, text: str) -> KeyUnavailableError:
        """Whether the token is no good, or may not do this: the server's words are the same for both."""
        with self._ask("auth/token/lookup-self", None) as answer:
            if answer.status == 200:
                return self._reason(text)
        return TokenRefused(self._unavailable(f"it refuses the token: {text}").message)

    def _reason(self, text: str) -> KeyUnavailableError:
        kind = next(kind for pattern, kind in _REASONS if re.search(pattern, text))
        where = f"the key server of {self.file.name}, key {self.file.key}"
        return kind(f"{where}: {_clean(text)}")

    def _unavailable(self, reason: str) -> ProviderUnavailable:
        return ProviderUnavailable(f"the key server of {self.file.name}: {self.file.server}: {reason}")


def _token(content: Secret, file: TransitFile) -> str:
    """A token is what the server gave: no line of HTTP can be hidden in it."""
    text = str(content.view(), "ascii", "replace").strip()
    if not re.fullmatch(r"[!-~]{1,8192}", text):
        raise ProviderUnavailable(f"{file.login.file}, by which the provider {file.name} logs in: no token")
    return text


def _clean(text: str) -> str:
    """A server's words on one line, and not too many."""
    line = " ".join(text.split())
    return "".join(char if char.isprintable() else "?" for char in line)[:300]
