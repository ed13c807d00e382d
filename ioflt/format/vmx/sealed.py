"""The form of a VMX in an encrypted home: VMware's key safe with a pair for each of the home's KEKs.

The clear line `ioflt.file` gives stat(2) what it needs without a key. Its id is bound by the key derivation,
its length is checked against the plaintext. Layout and worked bytes: SPEC.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ioflt.crypto import sealed as box
from ioflt.crypto.kdf import hkdf
from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, BugError, MalformedError, UsageError
from ioflt.format import dictionary
from ioflt.format.dictionary import Dictionary
from ioflt.format.keysafe import cryptodict, safe
from ioflt.format.keysafe.cryptodict import CipherKey
from ioflt.format.keysafe.locator import FqidLocator, PairLocator
from ioflt.format.keysafe.safe import KeySafe
from ioflt.format.vmx import text as vmx_text
from ioflt.format.vmx.text import MAX_PLAINTEXT, is_sealed
from ioflt.types import MAX_KEY_ID, MAX_PROVIDER_NAME, KeyRef

__all__ = [
    "MAX_PLAINTEXT",
    "PEEK_SIZE",
    "SealedInfo",
    "config_key",
    "is_sealed",
    "open_",
    "open_with",
    "peek",
    "reseal",
    "rewrap",
    "seal",
]

#: Bytes from the start of the file that `peek` needs at most. It takes the whole file as well.
PEEK_SIZE: Final = 32 << 10

#: Longest displayName copied to a clear line, in characters.
_MAX_NAME: Final = 256

_MAC: Final = "HMAC-SHA-256"
_FILE: Final = "ioflt.file"
_NUMBER: Final = r"(0|[1-9][0-9]{0,19})"
_FILE_VALUE = re.compile(f"id={_NUMBER}:length={_NUMBER}", re.ASCII)
_DATA_LINE: Final = b'\nencryption.data = "'


@dataclass(frozen=True, slots=True)
class SealedInfo:
    """What is seen without a key. Nothing here is authenticated.

    `length` is the plaintext's, in bytes; `keys` the KEKs each of which opens the safe; `safe` the key safe's
    text, which the next save keeps; `locators` says in words what opens each pair.
    """

    file_id: int
    length: int
    keys: tuple[KeyRef, ...]
    display_name: str | None
    safe: str
    locators: tuple[str, ...]

    @property
    def key(self) -> KeyRef | None:
        """The first of the KEKs."""
        return self.keys[0] if self.keys else None


def seal(plaintext: bytes, wrapping: Secret, key: KeyRef, file_id: int) -> bytes:
    """The sealed text of a new VMX (any bytes, at most MAX_PLAINTEXT) as file `file_id`.

    `wrapping` is 32 bytes, derived by the caller from the KEK that `key` names. Raises UsageError when too
    large.
    """
    if not 0 <= file_id < 1 << 64:
        raise BugError(f"file id {file_id}")
    with Secret.random(32) as new, _safe_key(wrapping, file_id) as safe_key:
        safe_text = safe.write(KeySafe((_pair(safe_key, new, key),)))
        return _write(plaintext, file_id, safe_text, new)


def reseal(text: bytes, key: Secret, plaintext: bytes) -> bytes:
    """What replaces the sealed `text` when its content is `plaintext` now. `key` is its config key.

    The key safe stays, so a save changes `encryption.data` and the clear lines only. Raises UsageError when
    too large.
    """
    info = peek(text)
    return _write(plaintext, info.file_id, info.safe, key)


def rewrap(text: bytes, wrapping: Secret, key: KeyRef, to: Sequence[tuple[KeyRef, Secret | None]]) -> bytes:
    """The same sealed VMX, its config key in a key safe with a pair for each of `to`, in that order.

    `wrapping` is derived from the KEK `key` that opens it now. Where a key comes without what is derived from
    its KEK, the pair that it has stays. Raises as `open_`.
    """
    vmx, info = vmx_text.parse(text), peek(text)
    present = safe.parse(info.safe)
    there = dict(zip(present.keys, present.pairs, strict=True))
    with config_key(text, wrapping, key) as found:
        open_with(text, found)
        pairs = tuple(
            there[one] if secret is None else _pair(_safe_key(secret, info.file_id), found, one)
            for one, secret in to
        )
    return bytes(vmx.lines.set(vmx_text.KEY_SAFE, safe.write(KeySafe(pairs))))


def open_(text: bytes, wrapping: Secret, key: KeyRef | None = None) -> bytes:
    """The exact bytes that were sealed. `wrapping` is derived from the KEK `key`, by default the first.

    Raises AuthenticationError for a wrong key, another file's id, a changed length or changed data;
    MalformedError for text that is not of this form.
    """
    with config_key(text, wrapping, key) as found:
        return open_with(text, found)


def config_key(text: bytes, wrapping: Secret, key: KeyRef | None = None) -> Secret:
    """What the content is under: 32 bytes that stay while the file is saved and gets other keys.

    `text` is the file, or its first PEEK_SIZE bytes. Raises as `open_`, for the key safe.
    """
    info = peek(text)
    with _safe_key(wrapping, info.file_id) as safe_key:
        return _config_key(safe.parse(info.safe), safe_key, key)


def open_with(text: bytes, key: Secret) -> bytes:
    """As `open_`, by the config key; nothing is said of the key safe and the file id then."""
    info = peek(text)
    with box.open_(key, vmx_text.parse(text).data, _MAC) as plaintext:
        if len(plaintext) != info.length:
            raise AuthenticationError("length does not verify", f"{info.length} in clear")
        return bytes(plaintext.view())


def peek(text: bytes) -> SealedInfo:
    """What the clear lines say. `text` is the file, or its first PEEK_SIZE bytes. Needs no key.

    Raises MalformedError: "no encryption data", "no key safe", "no file line", "bad file line",
    "bad key reference" and those of `keysafe.safe.parse`.
    """
    end = text.find(_DATA_LINE, 0, PEEK_SIZE)
    if end < 0:
        raise MalformedError("no encryption data")
    head = dictionary.parse(text[: end + 1])
    if vmx_text.KEY_SAFE not in head:
        raise MalformedError("no key safe")
    file_id, length = _file_line(head)
    safe_text = head[vmx_text.KEY_SAFE]
    key_safe = safe.parse(safe_text)
    for key in key_safe.keys:
        if len(key.provider) > MAX_PROVIDER_NAME or len(key.key_id) > MAX_KEY_ID:
            raise MalformedError("bad key reference", "too long")
    locators = tuple(map(safe.describe, key_safe.pairs))
    return SealedInfo(file_id, length, key_safe.keys, head.get("displayName"), safe_text, locators)


def _file_line(head: Dictionary) -> tuple[int, int]:
    value = head.get(_FILE)
    if value is None:
        raise MalformedError("no file line", "not sealed by ioflt")
    match = _FILE_VALUE.fullmatch(value)
    if match is None:
        raise MalformedError("bad file line")
    file_id, length = int(match[1]), int(match[2])
    if file_id >= 1 << 64 or length > MAX_PLAINTEXT:
        raise MalformedError("bad file line", "out of range")
    return file_id, length


def _safe_key(wrapping: Secret, file_id: int) -> Secret:
    """Binds the safe to its file: a sealed VMX does not open under another file's id."""
    return hkdf(wrapping, "vmx-file", file_id.to_bytes(8, "big"))


def _pair(safe_key: Secret, config_key: Secret, key: KeyRef) -> PairLocator:
    with cryptodict.write_key(CipherKey("AES-256", config_key)) as inner:
        data = box.seal(safe_key, inner.view(), _MAC)
    return PairLocator(FqidLocator(None, key.provider, key.key_id), _MAC, data)


def _config_key(key_safe: KeySafe, safe_key: Secret, key: KeyRef | None) -> Secret:
    """What the pair of `key`, by default the first, holds."""
    pairs = key_safe.pairs
    if any(pair.mac != _MAC or not isinstance(pair.locator, FqidLocator) for pair in pairs):
        raise MalformedError("foreign key safe", "key pairs with HMAC-SHA-256 expected")
    if len(set(key_safe.keys)) != len(pairs):
        raise MalformedError("foreign key safe", "two pairs for one key")
    if key is not None and key not in key_safe.keys:
        raise AuthenticationError("another key", f"no pair for {key}")
    pair = pairs[0 if key is None else key_safe.keys.index(key)]
    with box.open_(safe_key, pair.data, _MAC) as inner:
        return cryptodict.parse_key(inner).key


def _write(plaintext: bytes, file_id: int, safe_text: str, key: Secret) -> bytes:
    if len(plaintext) > MAX_PLAINTEXT:
        raise UsageError(f"VMX of {len(plaintext)} bytes is too large, at most {MAX_PLAINTEXT}")
    return vmx_text.write(_clear_lines(plaintext, file_id), safe_text, box.seal(key, plaintext, _MAC))


def _clear_lines(plaintext: bytes, file_id: int) -> Dictionary:
    clear = Dictionary(()).set(".encoding", "UTF-8")
    name = dictionary.parse(plaintext).get("displayName")
    if name is not None:
        clear = clear.set("displayName", name[:_MAX_NAME])
    return clear.set(_FILE, f"id={file_id}:length={len(plaintext)}")
