"""Crypto dictionaries, `name=value:name=value`: parameters of a derivation, or a key. Order is kept."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from ioflt.crypto.secret import Secret
from ioflt.errors import MalformedError, UnsupportedError
from ioflt.format.keysafe.escape import unbase64, unescape_bytes

#: Longest dictionary accepted, in characters. A key's is 124.
MAX_SIZE: Final = 4096

#: Bytes of a key by VMware's name of its cipher. "XTS-AES-256" is a label: the boxes below it are CBC.
KEY_SIZES: Final = {"AES-256": 32, "XTS-AES-256": 64}


class CryptoDict(Mapping[str, str]):
    """An ordered, immutable crypto dictionary. Its repr has names only: values may be keys."""

    def __init__(self, items: Mapping[str, str]) -> None:
        self._items = dict(items)

    def __getitem__(self, name: str) -> str:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"<CryptoDict {':'.join(self._items)}>"

    def need(self, name: str) -> str:
        """The value of `name`. Raises MalformedError "missing name"."""
        try:
            return self._items[name]
        except KeyError:
            raise MalformedError("missing name", f"crypto dictionary without {name}") from None

    def __str__(self) -> str:
        return ":".join(f"{name}={_escape(value)}" for name, value in self._items.items())


def parse(text: str) -> CryptoDict:
    """The dictionary in `text`.

    Raises MalformedError: "too large", "bad name", "duplicate name", "bad escape", "not UTF-8".
    """
    if len(text) > MAX_SIZE:
        raise MalformedError("too large", f"crypto dictionary of {len(text)} characters")
    items: dict[str, str] = {}
    for part in text.split(":"):
        name, equals, value = part.partition("=")
        if not equals or not re.fullmatch(r"[0-9A-Za-z]+", name):
            raise MalformedError("bad name", "in a crypto dictionary")
        if name in items:
            raise MalformedError("duplicate name", name)
        items[name] = unescape_bytes(value)
    return CryptoDict(items)


class CipherKey(NamedTuple):
    """A key and VMware's name of the cipher it is for, one of KEY_SIZES."""

    cipher: str
    key: Secret


def parse_key(text: Secret) -> CipherKey:
    """The key in `type=key:cipher=…:key=…`.

    Raises MalformedError "not a key", "bad key length", those of `parse`; UnsupportedError "unknown cipher".
    """
    try:
        items = parse(bytes(text.view()).decode("ascii"))
    except UnicodeDecodeError:
        raise MalformedError("not a key") from None
    if items.need("type") != "key":
        raise MalformedError("not a key")
    cipher = items.need("cipher")
    length = key_size(cipher)
    key = Secret(unbase64(items.need("key")))
    if len(key) != length:
        raise MalformedError("bad key length", f"{len(key)} bytes for {cipher}")
    return CipherKey(cipher, key)


def write_key(cipher_key: CipherKey) -> Secret:
    """The text that `parse_key` reads."""
    key = base64.b64encode(cipher_key.key.view()).decode()
    return Secret(str(CryptoDict({"type": "key", "cipher": cipher_key.cipher, "key": key})).encode())


def key_size(cipher: str) -> int:
    """Bytes of a key for `cipher`. Raises UnsupportedError "unknown cipher"."""
    try:
        return KEY_SIZES[cipher]
    except KeyError:
        raise UnsupportedError("unknown cipher", cipher[:40]) from None


def _escape(value: str) -> str:
    return value.replace("%", "%25").replace(":", "%3a").replace("=", "%3d")
