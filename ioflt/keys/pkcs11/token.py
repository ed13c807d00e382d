"""A token, seen from here: the worker process that has the vendor's module, and what is asked of it.

For one thread, which has to live as long as the worker; `kill` is for any.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec

from ioflt.crypto.rng import random_bytes
from ioflt.crypto.secret import Secret
from ioflt.errors import (
    IofltError,
    KeyCorrupt,
    KeyUnavailableError,
    PeerError,
    ProviderLocked,
    ProviderUnavailable,
)
from ioflt.keys import starter
from ioflt.keys.channel import Channel, ConnectionLost, Receiver
from ioflt.keys.pkcs11 import messages
from ioflt.keys.pkcs11.file import Pkcs11File
from ioflt.keys.pkcs11.messages import NONCE_SIZE, Reply, Sealed, Tries
from ioflt.keys.provider import KEK_SIZE
from ioflt.wire import failure
from ioflt.wire.failure import Failure
from ioflt.wire.frame import ReceiveBuffer, RemoteProtocolError, wipe, write_frame

#: Seconds that a worker may take to log out and end.
_END_S: Final = 2.0

#: Seconds that a worker may take to start, on a machine that is busy.
_START_S: Final = 30.0

_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)

_R = TypeVar("_R", bound=Reply)


class TokenLost(ProviderUnavailable):
    """The session, the module or its process is gone: another one may do."""


class PinRefused(ProviderLocked):
    """The token does not take this PIN, or none at all now. Another try may cost it."""


class Token:
    """A running worker. Its errors are KeyUnavailableError, and name the provider."""

    def __init__(self, file: Pkcs11File) -> None:
        """Start the worker."""
        self._file = file
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "ioflt.keys.pkcs11.worker", str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env=_environment(file),
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            raise ProviderUnavailable(f"{self}: its process cannot be started: {error}") from error
        self._channel = Channel(ours, str(self))
        received: ReceiveBuffer[Reply] = ReceiveBuffer(_decoder)
        self._received: Receiver[Reply] = received

    def __str__(self) -> str:
        return f"the token of {self._file.name}"

    def load(self) -> str:
        """Load the module. Returns what it calls itself."""
        self._ask(messages.Hello(), messages.Said, _START_S)
        return self._ask(messages.Load(self._file.module), messages.Said).text

    def find(self) -> tuple[str, Tries]:
        """Find the token. Returns what it calls itself, and how many wrong PINs it takes."""
        found = self._ask(messages.FindToken(self._file.token), messages.TokenFound)
        return found.text, found.tries

    def log_in(self, pin: Secret, tries: Tries, *, by_hand: bool, write: bool = False) -> None:
        """Log in; the last try that the token allows is made only `by_hand`. Raises PinRefused.

        `tries` is what `find` told.
        """
        if tries == "none":
            raise PinRefused(f"{self}: its PIN is locked")
        if tries == "one" and not by_hand:
            raise PinRefused(f"{self}: one more wrong PIN locks it, so none is tried unasked")
        sent = bytearray(pin.view())
        try:
            self._ask(messages.LogIn(sent, write), messages.Said)
        finally:
            wipe(sent)

    def find_key(self, *, make: bool = False) -> str:
        """Find the wrapping key; `make`: make it where there is none. Returns what it is."""
        return self._ask(messages.FindKey(self._file.key, make), messages.Said).text

    def open(self, pin: Secret, *, by_hand: bool, make: bool = False) -> str:
        """All of this. Returns what the key is."""
        self.load()
        _, tries = self.find()
        self.log_in(pin, tries, by_hand=by_hand, write=make)
        return self.find_key(make=make)

    def wrap(self, kek: Secret, associated_data: bytes) -> bytes:
        """Nonce, ciphertext and tag of a KEK."""
        nonce, sent = random_bytes(NONCE_SIZE), bytearray(kek.view())
        try:
            return nonce + self._ask(messages.Wrap(nonce, sent, associated_data), messages.Wrapped).ciphertext
        finally:
            wipe(sent)

    def unwrap(self, wrapped: Sequence[tuple[bytes, bytes]]) -> list[Secret | KeyUnavailableError]:
        """The KEK or why there is none, for each (nonce, ciphertext and tag; associated data)."""
        items = tuple(Sealed(blob[:NONCE_SIZE], blob[NONCE_SIZE:], bound) for blob, bound in wrapped)
        answer = self._ask(messages.Unwrap(items), messages.Unwrapped)
        try:
            if len(answer.keks) != len(items):
                raise TokenLost(f"{self}: its answer does not fit the question")
            return [self._kek(kek, answer.failures.get(index)) for index, kek in enumerate(answer.keks)]
        finally:
            for kek in answer.keks:
                wipe(kek)

    def close(self) -> None:
        """Have the worker log out and end; return when it is gone."""
        with contextlib.suppress(OSError):
            self._channel.socket.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._channel.close()

    def kill(self) -> None:
        """End the worker at once, whatever it does; who waits for its answer gets TokenLost."""
        self._process.kill()

    def _kek(self, kek: bytearray, failed: Failure | None) -> Secret | KeyUnavailableError:
        if failed is not None:
            return self._error(failed)
        if len(kek) != KEK_SIZE:
            return KeyCorrupt(f"{self}: it gave {len(kek)} bytes as a key")
        return Secret(kek)

    def _ask(self, request: messages.Request, kind: type[_R], timeout: float | None = None) -> _R:
        timeout = timeout or self._file.timeout
        try:
            answer = self._channel.exchange(write_frame(request), self._received, timeout)
        except ConnectionLost as error:
            raise TokenLost(f"{self}: its module {self._end()}") from error
        except RemoteProtocolError as error:
            raise TokenLost(f"{self}: its process: {error}") from error
        except PeerError as error:
            self.kill()
            raise ProviderUnavailable(f"{self}: no answer within {timeout:g} seconds") from error
        if isinstance(answer, kind):
            return answer
        match answer:
            case messages.Refused(reason):
                raise PinRefused(f"{self}: {reason}")
            case messages.Lost(reason):
                raise TokenLost(f"{self}: {reason}")
            case Failure():
                raise self._error(answer)
        raise TokenLost(f"{self}: its answer does not fit the question")

    def _error(self, told: Failure) -> KeyUnavailableError:
        error: IofltError = failure.rebuild(told)
        if isinstance(error, KeyUnavailableError):
            return type(error)(f"{self}: {error.message}")
        return ProviderUnavailable(f"{self}: {error}")

    def _end(self) -> str:
        """How the worker ended, which its socket told of."""
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return "closed the connection"
        return f"crashed: {signal.Signals(-code).name}" if code < 0 else f"ended by itself, code {code}"


def _environment(file: Pkcs11File) -> dict[str, str]:
    """What the module finds in its environment: the same, whoever started this process."""
    known = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    return {**known, **file.environment, "PYTHONPATH": starter.environment()["PYTHONPATH"]}
