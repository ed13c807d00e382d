"""Principals: who may be given permissions, and as whom someone asks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ioflt.errors import UsageError

#: Longest name.
MAX_NAME: Final = 128

# Printable, no separators of ours, nothing that looks like an option.
_NAME = re.compile(
    r"[^\s:/\x00-\x1f\x7f-\x9f\ud800-\udfff-](?:[^:/\x00-\x1f\x7f-\x9f\ud800-\udfff]*[^\s:/\x00-\x1f\x7f-\x9f\ud800-\udfff])?"
)


class Kind(StrEnum):
    USER = "user"
    GROUP = "group"
    SERVICE = "service"


@dataclass(frozen=True, slots=True, order=True)
class Principal:
    """A Unix user or group by its name, or by its number where it has no name; or a named service."""

    kind: Kind
    name: str

    def __post_init__(self) -> None:
        if len(self.name) > MAX_NAME or _NAME.fullmatch(self.name) is None:
            raise UsageError(f"not a name of a {self.kind}: {ascii(self.name)[:60]}")

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a user or service, and the groups he is in. `trusted`: root of the host, who may do all."""

    principal: Principal
    groups: frozenset[Principal] = frozenset()
    trusted: bool = False

    @property
    def all(self) -> frozenset[Principal]:
        """Everything whose permissions may be his."""
        return self.groups | {self.principal}


def user(name: str) -> Principal:
    return Principal(Kind.USER, name)


def group(name: str) -> Principal:
    return Principal(Kind.GROUP, name)


def service(name: str) -> Principal:
    return Principal(Kind.SERVICE, name)


def parse(text: str) -> Principal:
    """`user:alice`, `group:ops`, `service:backup`; a bare name is a user's. Raises UsageError."""
    kind, colon, name = text.partition(":")
    if not colon:
        return user(text)
    if kind not in set(Kind):
        raise UsageError(f"not user:NAME, group:NAME or service:NAME: {ascii(text)[:60]}")
    return Principal(Kind(kind), name)
