"""The pkcs11 provider: KEKs wrapped by a key that never leaves its token (an HSM).

Threads: one thread of its own has the token, and serves one request after the other, in the order in which
they came; so a call for one key is served between two batches of a call for thousands. `_token`, `_pin` and
`_failure` are that thread's. Others read `_locked`, `_refused` and whether there is a `_pin`, and may kill
the token's process.

A PIN that was refused is not tried again before `unlock`: tokens count, and lock themselves.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from ioflt.crypto.secret import Secret
from ioflt.errors import (
    KeyNotUsable,
    KeyUnavailableError,
    ProviderLocked,
    ProviderUnavailable,
    UsageError,
)
from ioflt.keys.pkcs11.file import Pkcs11File
from ioflt.keys.pkcs11.messages import MAX_BATCH, MAX_PIN
from ioflt.keys.pkcs11.token import PinRefused, Token, TokenLost
from ioflt.keys.remote import credential
from ioflt.keys.wrapping import Wrapped, WrappingProvider

#: What `opened_by` says of a provider whose PIN a person gives.
ASKED: Final = "PIN"

#: Seconds that a request which is under way delays a lock. Then its process is killed.
_GRACE_S: Final = 1.0

_MARK: Final = "aes-gcm:"

_R = TypeVar("_R")


class Pkcs11Provider(WrappingProvider):
    """One provider file's keys. A `keys.provider.KeyProvider`."""

    kind = "pkcs11"
    form = re.compile(rf"{_MARK}([0-9A-Za-z+/]{{80}})")  # 60 bytes: nonce 12, key 32, tag 16
    batch = MAX_BATCH

    def __init__(self, file: Pkcs11File) -> None:
        super().__init__()
        self.file = file
        self._thread = ThreadPoolExecutor(1, "pkcs11")
        self._token: Token | None = None
        self._pin: Secret | None = None
        self._refused = ""  # why no PIN is tried; empty: one may be
        self._failure: tuple[float, ProviderUnavailable] | None = None  # the last one, and when

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def wrapper(self) -> str:
        return f"the token of {self.name}"

    @property
    def timeout(self) -> float:
        return self.file.timeout

    def unlock(self, passphrase: Secret | None) -> None:
        """End a lock and log in: by that PIN, or by the file that has it."""
        if passphrase is not None and self.file.pin_file is not None:
            raise UsageError(f"the provider {self.name} reads its PIN from {self.file.pin_file}")
        if passphrase is None:
            self._locked = False
            self._thread.submit(self._log_in_again).result()
        else:
            self._thread.submit(self._log_in_by, checked_pin(passphrase)).result()

    def lock(self) -> None:
        """Log out, and do not log in again before `unlock`. What is under way is ended, if it takes long."""
        self._locked = True
        ended = self._thread.submit(self._forget)
        try:
            ended.result(_GRACE_S)
        except TimeoutError:
            if (token := self._token) is not None:
                token.kill()
            ended.result()

    def close(self) -> None:
        """Log out. The next call logs in again."""
        self._thread.submit(self._end).result()

    def change(self, file: Pkcs11File) -> None:
        """Go on with what the file says now."""
        self._trouble = ""
        if file != self.file:
            self.file = file
            self._refused = ""
            self.close()

    def opened_by(self) -> str:
        return ASKED if self.file.pin_file is None else "pin-file"

    def why_locked(self) -> str:
        waits = self.file.pin_file is None and self._pin is None
        return (
            super().why_locked()
            or self._refused
            or (f"the provider {self.name} waits for its PIN" if waits else "")
        )

    def _wrap(self, kek: Secret, associated_data: bytes) -> str:
        return _MARK + base64.b64encode(self._call(lambda token: token.wrap(kek, associated_data))).decode()

    def _unwrap(self, wrapped: Sequence[Wrapped]) -> list[Secret | KeyUnavailableError]:
        items = [(base64.b64decode(one.ciphertext[len(_MARK) :]), one.associated_data) for one in wrapped]
        return self._call(lambda token: token.unwrap(items))

    def _call(self, ask: Callable[[Token], _R]) -> _R:
        """Ask the token something, in the thread that has it."""
        return self._thread.submit(self._serve, ask, time.monotonic()).result()

    # In that thread

    def _serve(self, ask: Callable[[Token], _R], asked: float) -> _R:
        # Who waited for what failed does not wait for it again.
        if self._failure is not None and self._failure[0] >= asked:
            raise ProviderUnavailable(self._failure[1].message)
        try:
            result = self._ask(ask)
        except ProviderUnavailable as error:
            self._end()
            self._failure = time.monotonic(), error
            self._trouble = error.message
            self._refuse_if_locked()  # which is why, then
            raise
        except KeyUnavailableError:
            self._trouble = ""
            raise
        self._trouble = ""
        self._refuse_if_locked()
        return result

    def _ask(self, ask: Callable[[Token], _R]) -> _R:
        kept = self._token
        try:
            return ask(self._logged_in())
        except TokenLost:
            if kept is None:
                raise
            self._end()
        return ask(self._logged_in())

    def _logged_in(self) -> Token:
        """The token, logged in; by itself if need be, unless that might cost it a try."""
        self._refuse_if_locked()
        if self._token is not None:
            return self._token
        with self._known_pin() as pin:
            try:
                return self._open(pin, by_hand=False)
            except PinRefused as error:
                self._refuse(error.message)
                raise ProviderLocked(error.message) from error

    def _log_in_again(self) -> None:
        """As asked for by a person."""
        self._end()
        self._trouble = self._refused = ""
        with self._known_pin() as pin:
            try:
                self._open(pin, by_hand=True)
            except PinRefused as error:
                self._refuse(error.message)
                raise KeyNotUsable(error.message) from error

    def _log_in_by(self, pin: Secret) -> None:
        """By a PIN that a person gave. Another one that is in use stays so, unless this one lets us in."""
        kept, self._token = self._token, None
        try:
            self._open(pin, by_hand=True)
        except KeyUnavailableError as error:
            self._token = kept
            pin.wipe()
            if isinstance(error, PinRefused):
                raise KeyNotUsable(error.message) from error
            raise
        if kept is not None:
            kept.close()
        if self._pin is not None:
            self._pin.wipe()
        self._pin = pin
        self._locked = False
        self._trouble = self._refused = ""

    def _open(self, pin: Secret, *, by_hand: bool) -> Token:
        self._token = Token(self.file)
        try:
            self._token.open(pin, by_hand=by_hand)
        except BaseException:
            self._end()
            raise
        return self._token

    def _known_pin(self) -> Secret:
        """A copy of the PIN, for the caller to wipe."""
        if self.file.pin_file is not None:
            return pin_in(self.file.pin_file, self.name)
        if self._pin is None:
            raise ProviderLocked(f"the provider {self.name} waits for its PIN")
        return Secret(self._pin.view())

    def _refuse(self, reason: str) -> None:
        if self.file.pin_file is not None:
            self._refused = reason
        elif self._pin is not None:  # another one is set meanwhile
            self._pin.wipe()
            self._pin = None

    def _forget(self) -> None:
        self._end()
        if self._pin is not None:
            self._pin.wipe()
            self._pin = None

    def _end(self) -> None:
        token, self._token = self._token, None
        if token is not None:
            token.close()


def pin_in(path: str, name: str) -> Secret:
    """The PIN in a file, by which the provider `name` logs in. Raises ProviderUnavailable."""
    with credential(path, name) as content:
        line = content.view()
        if len(line) > 0 and line[-1] == ord("\n"):
            line = line[:-1]
        if not 0 < len(line) <= MAX_PIN:
            raise ProviderUnavailable(f"{path}, by which the provider {name} logs in: no PIN")
        return Secret(line)


def checked_pin(pin: Secret) -> Secret:
    """A copy of a PIN that a person gave. Raises UsageError."""
    if not 0 < len(pin) <= MAX_PIN:
        raise UsageError(f"a PIN has 1 to {MAX_PIN} bytes")
    return Secret(pin.view())
