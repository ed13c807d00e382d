"""What QEMU's monitor and QEMU's guest agent say, one JSON object a line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Greeting:
    """The monitor's first word. `version`: QEMU's, as in (7, 2, 22)."""

    version: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """A command was done. `value`: what JSON it gave."""

    id: int | None
    value: Any


@dataclass(frozen=True, slots=True)
class Refusal:
    """A command was not done. `kind`: one of QEMU's few classes, mostly GenericError."""

    id: int | None
    kind: str
    description: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened; nobody asked."""

    name: str
    data: dict[str, Any]


Message: TypeAlias = Greeting | Answer | Refusal | Event
