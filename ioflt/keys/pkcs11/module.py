"""A token through the PKCS#11 module of its vendor (python-pkcs11, the extra `pkcs11`). In the worker only.

From the OASIS PKCS #11 specification 2.40: C_Encrypt and C_Decrypt with CKM_AES_GCM, whose ciphertext ends
with the tag. One session, one thread.
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Callable
from typing import Any, TypeVar, assert_never

import pkcs11
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, MechanismFlag, ObjectClass, TokenFlag
from pkcs11 import exceptions as codes

from ioflt.crypto.rng import random_bytes
from ioflt.errors import KeyCorrupt, KeyNotFound, KeyNotUsable, ProviderUnavailable
from ioflt.keys.pkcs11 import messages
from ioflt.keys.pkcs11.messages import NONCE_SIZE, TAG_SIZE, Reply, ToToken, Tries
from ioflt.keys.provider import KEK_SIZE
from ioflt.wire import failure
from ioflt.wire.failure import Failure

_KEY_BITS = 256

#: The codes that speak of the PIN. None of them is followed by another try.
_PIN_CODES: dict[type[pkcs11.PKCS11Error], str] = {
    codes.PinIncorrect: "wrong PIN",
    codes.PinInvalid: "wrong PIN",
    codes.PinLenRange: "wrong PIN: none of this length is one of the token's",
    codes.PinLocked: "its PIN is locked",
    codes.PinExpired: "its PIN has expired",
    codes.UserPinNotInitialized: "it has no PIN yet",
}

_FLAGS: tuple[tuple[TokenFlag, Tries], ...] = (
    (TokenFlag.USER_PIN_LOCKED, "none"),
    (TokenFlag.USER_PIN_FINAL_TRY, "one"),
    (TokenFlag.USER_PIN_COUNT_LOW, "few"),
)

_LEFT: dict[Tries, str] = {
    "enough": "",
    "few": "; it takes few more wrong ones",
    "one": "; one more wrong one locks it",
    "none": "; it is locked now",
}

_WRONG_TAG = (codes.EncryptedDataInvalid, codes.EncryptedDataLenRange)

#: What is said of a handle whose object is gone.
_STALE = (codes.ObjectHandleInvalid, codes.KeyHandleInvalid)

#: CKR_KEY_FUNCTION_NOT_PERMITTED, for which python-pkcs11 has no class.
_NOT_PERMITTED = "0x68"

_R = TypeVar("_R")


class Module:
    """A module, and the token, session and key that were found in it, in this order."""

    def __init__(self, path: str) -> None:
        """Load it. Raises ProviderUnavailable."""
        try:
            self._library = pkcs11.lib(path)
        except pkcs11.PKCS11Error as error:
            reason = str(error).rpartition(f"{path}: ")[2] or _text(error)  # what dlopen says names it first
            raise ProviderUnavailable(f"its module {path} cannot be used: {reason}") from error

    def __str__(self) -> str:
        library = self._library
        major, minor = library.library_version
        return f"{library.library_description} {major}.{minor} ({library.manufacturer_id})"

    def answer(self, request: ToToken) -> Reply:
        """The reply to a request. Raises KeyUnavailableError."""
        try:
            return self._answer(request)
        except pkcs11.PKCS11Error as error:
            return messages.Lost(f"it answers {_text(error)}")

    def close(self) -> None:
        """Log out, as far as the token is still there."""
        with contextlib.suppress(AttributeError, pkcs11.PKCS11Error):
            self._session.close()
        with contextlib.suppress(pkcs11.PKCS11Error):
            self._library.finalize()

    def _answer(self, request: ToToken) -> Reply:
        match request:
            case messages.FindToken(label):
                return messages.TokenFound(self._find_token(label), self._tries())
            case messages.LogIn(pin, write):
                return self._log_in(pin, write=write)
            case messages.FindKey(label, make):
                return messages.Said(self._find_or_make_key(label) if make else self._find_key(label))
            case messages.Wrap(nonce, kek, associated_data):
                return messages.Wrapped(self._with_key(lambda: self._encrypt(nonce, kek, associated_data)))
            case messages.Unwrap(items):
                return self._unwrap(items)
            case _:
                assert_never(request)

    def _find_token(self, label: str) -> str:
        found = [token for token in self._library.get_tokens() if token.label == label]
        if not found:
            raise ProviderUnavailable(f"no token {label} is there")
        if len(found) > 1:
            raise ProviderUnavailable(f"{len(found)} tokens are called {label}")
        self._token = found[0]
        serial = self._token.serial.decode(errors="replace")
        return f"{self._token.manufacturer_id} {self._token.model}, serial number {serial}"

    def _tries(self) -> Tries:
        """How many wrong PINs the token takes now."""
        flags = self._token.slot.get_token().flags
        for flag, tries in _FLAGS:
            if flag in flags:
                return tries
        return "enough"

    def _log_in(self, pin: bytearray, *, write: bool) -> messages.Said | messages.Refused:
        try:
            text = pin.decode()
        except UnicodeDecodeError:
            return messages.Refused("wrong PIN: it is not UTF-8")
        try:
            self._session = self._token.open(rw=write, user_pin=text)
        except pkcs11.PKCS11Error as error:
            left: Tries = "enough"
            with contextlib.suppress(pkcs11.PKCS11Error):
                left = self._tries()
            reason = _PIN_CODES.get(type(error))
            if reason is None and left == "enough":  # else it counted this as a wrong PIN, whatever it says
                raise
            return messages.Refused((reason or f"it answers {_text(error)} to the PIN") + _LEFT[left])
        return messages.Said("done")

    def _find_or_make_key(self, label: str) -> str:
        with contextlib.suppress(KeyNotFound):
            return self._find_key(label)
        self._session.generate_key(
            KeyType.AES,
            _KEY_BITS,
            label=label,
            store=True,
            capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
            template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True},
        )
        return f"made, {self._find_key(label)}"

    def _find_key(self, label: str) -> str:
        """Select the one AES-256 key of that label."""
        self._label = label
        wanted = {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.LABEL: label,
        }
        found = list(self._session.get_objects(wanted))
        if not found:
            raise KeyNotFound(f"it has no AES key {label}")
        if len(found) > 1:
            raise KeyNotUsable(f"it has {len(found)} AES keys {label}")
        key = found[0]
        if key[Attribute.VALUE_LEN] * 8 != _KEY_BITS:
            raise KeyNotUsable(f"its key {label} is not one of {_KEY_BITS} bits")
        if not key[Attribute.SENSITIVE]:
            raise KeyNotUsable(f"its key {label} can be read by who has the PIN: it is not sensitive")
        if not (key[Attribute.ENCRYPT] and key[Attribute.DECRYPT]):
            raise KeyNotUsable(f"its key {label} may not both encrypt and decrypt")
        self._key: Any = key  # its type lacks what this object can do
        return (
            f"AES-{_KEY_BITS}, {'may leave it wrapped' if key[Attribute.EXTRACTABLE] else 'never leaves it'}"
        )

    def _unwrap(self, items: tuple[messages.Sealed, ...]) -> messages.Unwrapped:
        keks: list[bytearray] = []
        failures: dict[int, Failure] = {}
        works = False
        for index, item in enumerate(items):
            kek = bytearray()
            try:
                kek = bytearray(self._with_key(lambda item=item: self._decrypt(item)))  # type: ignore[misc]
            except pkcs11.PKCS11Error as error:
                # The standard has a code for a wrong tag. SoftHSM says CKR_GENERAL_ERROR, others something
                # else: all that can be known is whether the key still does its work.
                works = works or isinstance(error, _WRONG_TAG) or self._works()
                if not works:
                    raise
                failures[index] = failure.of(KeyCorrupt("its key does not unwrap that"))
            keks.append(kek)
        return messages.Unwrapped(tuple(keks), failures)

    def _with_key(self, use: Callable[[], _R]) -> _R:
        """Use the key; once more when its object is another now."""
        try:
            return use()
        except _STALE:
            self._find_key(self._label)
            return use()
        except pkcs11.PKCS11Error as error:
            if str(error).endswith(_NOT_PERMITTED):
                raise KeyNotUsable(f"it does not permit the use of its key {self._label}") from error
            if isinstance(error, codes.MechanismInvalid | codes.MechanismParamInvalid):
                raise KeyNotUsable("it knows no AES-GCM with a nonce of ours") from error
            raise

    def _works(self) -> bool:
        nonce, probe = random_bytes(NONCE_SIZE), random_bytes(KEK_SIZE)
        item = messages.Sealed(nonce, self._encrypt(nonce, probe, b"ioflt probe"), b"ioflt probe")
        return hmac.compare_digest(self._decrypt(item), probe)

    def _encrypt(self, nonce: bytes, plain: bytes | bytearray, associated_data: bytes) -> bytes:
        return bytes(
            self._key.encrypt(
                bytes(plain),
                mechanism=Mechanism.AES_GCM,
                mechanism_param=GCMParams(nonce, associated_data, TAG_SIZE * 8),
            )
        )

    def _decrypt(self, item: messages.Sealed) -> bytes:
        return bytes(
            self._key.decrypt(
                item.ciphertext,
                mechanism=Mechanism.AES_GCM,
                mechanism_param=GCMParams(item.nonce, item.associated_data, TAG_SIZE * 8),
            )
        )


def _text(error: pkcs11.PKCS11Error) -> str:
    """A code's name, and what else is known."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
