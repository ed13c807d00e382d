"""Key locators: where a key is found. `parse` and `write` are inverse for canonical text (SPEC.md)."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from ioflt.errors import MalformedError
from ioflt.format.keysafe.escape import esc, esc_null, unbase64, unesc, unesc_null

#: Longest locator text accepted, in bytes.
MAX_SIZE: Final = 64 << 10

#: Deepest nesting of lists and pairs accepted.
MAX_DEPTH: Final = 8

_PREFIX: Final = "vmware:key/"
_FIELD = re.compile(r"[^/,()]*")


class Role(Enum):
    """Keys that VMware's programs know by role."""

    OBFUSCATION = "obfuscation"
    ADMIN_IDENT = "adminIdent"
    ADMIN_RECOVERY = "adminRecovery"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class NullLocator:
    """No key."""


@dataclass(frozen=True, slots=True)
class RawKeyLocator:
    """The key itself, in VMware's exported form."""

    exported: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class PhraseLocator:
    """A key derived from a passphrase as `crypto_dict` (text, see `cryptodict`) tells."""

    unique_id: str
    crypto_dict: str


@dataclass(frozen=True, slots=True)
class LdapLocator:
    """A key kept in a directory server. `port` is 0 to 65535."""

    unique_id: str | None
    server: str | None
    domain: str | None
    port: int
    ssl: bool
    path: str


@dataclass(frozen=True, slots=True)
class ScriptLocator:
    """A key that an external program prints. Never run here."""

    unique_id: str | None
    path: str
    signature: str


@dataclass(frozen=True, slots=True)
class RoleLocator:
    """A well-known key."""

    unique_id: str | None
    role: Role


@dataclass(frozen=True, slots=True)
class FqidLocator:
    """A key by provider ("key server id") and opaque key id."""

    unique_id: str | None
    server_id: str | None
    key_id: str


@dataclass(frozen=True, slots=True)
class PairLocator:
    """`data`, a sealed box (crypto.sealed) under the key that `locator` finds."""

    locator: Locator
    mac: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ListLocator:
    """Alternatives, at least one."""

    members: tuple[Locator, ...]


Locator = (
    NullLocator
    | RawKeyLocator
    | PhraseLocator
    | LdapLocator
    | ScriptLocator
    | RoleLocator
    | FqidLocator
    | PairLocator
    | ListLocator
)


def parse(text: str) -> Locator:
    """The locator in `text`, `vmware:key/` and all.

    Raises MalformedError: "too large", "bad prefix", "unknown locator", "missing field", "bad escape",
    "empty field", "null field", "not UTF-8", "bad base64", "bad port", "bad flag", "unknown role",
    "unbalanced", "nested too deep", "trailing data".
    """
    if len(text) > MAX_SIZE:
        raise MalformedError("too large", f"key locator of {len(text)} characters, at most {MAX_SIZE}")
    if text[: len(_PREFIX)].lower() != _PREFIX:
        raise MalformedError("bad prefix", "not vmware:key/")
    reader = _Reader(text, len(_PREFIX))
    locator = _locator(reader, 0)
    if not reader.at_end:
        raise MalformedError("trailing data")
    return locator


def write(locator: Locator) -> str:
    """The canonical text of `locator`. Raises UsageError for a value that the grammar has no form for."""
    return _PREFIX + _text(locator)


class _Reader:
    """A place in the text."""

    def __init__(self, text: str, position: int) -> None:
        self._text = text
        self._position = position

    @property
    def at_end(self) -> bool:
        return self._position == len(self._text)

    def field(self) -> str:
        """Up to the next delimiter, which stays."""
        match = _FIELD.match(self._text, self._position)
        assert match is not None  # noqa: S101  # the pattern matches the empty string
        self._position = match.end()
        return match[0]

    def take(self, delimiter: str) -> bool:
        taken = self._text.startswith(delimiter, self._position)
        self._position += len(delimiter) if taken else 0
        return taken

    def expect(self, delimiter: str) -> None:
        if not self.take(delimiter):
            reason = "unbalanced" if delimiter in "()" else "missing field"
            raise MalformedError(reason, f"{delimiter!r} expected at {self._position}")

    def next_field(self) -> str:
        """The field after a `/`."""
        self.expect("/")
        return self.field()


def _locator(reader: _Reader, depth: int) -> Locator:
    if depth > MAX_DEPTH:
        raise MalformedError("nested too deep", f"at most {MAX_DEPTH}")
    kind = reader.field().lower()
    match kind:
        case "null":
            if unesc(reader.next_field()) != "":
                raise MalformedError("trailing data", "after null")
            return NullLocator()
        case "rawkey":
            return RawKeyLocator(unesc(reader.next_field()))
        case "phrase":
            return PhraseLocator(unesc(reader.next_field()), unesc(reader.next_field()))
        case "ldap":
            return _ldap(reader)
        case "script":
            unique_id = unesc_null(reader.next_field())
            return ScriptLocator(unique_id, unesc(reader.next_field()), unesc(reader.next_field()))
        case "role":
            return RoleLocator(unesc_null(reader.next_field()), _role(unesc(reader.next_field())))
        case "fqid":
            unique_id, server = unesc_null(reader.next_field()), unesc_null(reader.next_field())
            return FqidLocator(unique_id, server, unesc(reader.next_field()))
        case "list":
            return _list(reader, depth)
        case "pair":
            return _pair(reader, depth)
        case _:
            raise MalformedError("unknown locator", repr(kind[:20]))


def _ldap(reader: _Reader) -> LdapLocator:
    unique_id = unesc_null(reader.next_field())
    server, domain = unesc_null(reader.next_field()), unesc_null(reader.next_field())
    port, flag = unesc(reader.next_field()), unesc(reader.next_field())
    if not re.fullmatch(r"0|[1-9][0-9]{0,4}", port, re.ASCII) or int(port) > 65535:
        raise MalformedError("bad port")
    if flag not in ("TRUE", "FALSE"):
        raise MalformedError("bad flag")
    return LdapLocator(unique_id, server, domain, int(port), flag == "TRUE", unesc(reader.next_field()))


def _role(name: str) -> Role:
    for role in Role:
        if role.value.lower() == name.lower():
            return role
    raise MalformedError("unknown role", repr(name[:20]))


def _list(reader: _Reader, depth: int) -> ListLocator:
    reader.expect("/")
    reader.expect("(")
    members = [_locator(reader, depth + 1)]
    while reader.take(","):
        members.append(_locator(reader, depth + 1))
    reader.expect(")")
    return ListLocator(tuple(members))


def _pair(reader: _Reader, depth: int) -> PairLocator:
    reader.expect("/")
    reader.expect("(")
    inner = _locator(reader, depth + 1)
    reader.expect(",")
    mac = unesc(reader.field())
    reader.expect(",")
    data = unbase64(unesc(reader.field()))
    reader.expect(")")
    return PairLocator(inner, mac, data)


def _text(locator: Locator) -> str:
    match locator:
        case NullLocator():
            return f"null/{esc('')}"
        case RawKeyLocator():
            return f"rawkey/{esc(locator.exported)}"
        case PhraseLocator():
            return f"phrase/{esc(locator.unique_id)}/{esc(locator.crypto_dict)}"
        case LdapLocator():
            flag = "TRUE" if locator.ssl else "FALSE"
            where = f"{esc_null(locator.server)}/{esc_null(locator.domain)}/{locator.port}/{flag}"
            return f"ldap/{esc_null(locator.unique_id)}/{where}/{esc(locator.path)}"
        case ScriptLocator():
            return f"script/{esc_null(locator.unique_id)}/{esc(locator.path)}/{esc(locator.signature)}"
        case RoleLocator():
            return f"role/{esc_null(locator.unique_id)}/{locator.role.value}"
        case FqidLocator():
            return f"fqid/{esc_null(locator.unique_id)}/{esc_null(locator.server_id)}/{esc(locator.key_id)}"
        case ListLocator():
            return f"list/({','.join(map(_text, locator.members))})"
        case PairLocator():
            data = esc(base64.b64encode(locator.data).decode())
            return f"pair/({_text(locator.locator)},{esc(locator.mac)},{data})"
