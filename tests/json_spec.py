"""What `ioflt/cli/SPEC.md` says of `--json`, for the tests that hold it against the commands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import ioflt

SPEC = Path(ioflt.__file__).parent / "cli" / "SPEC.md"


@dataclass(frozen=True, slots=True)
class Value:
    """What a command prints: the fields of an object, or of each in a list."""

    is_list: bool
    fields: tuple[str, ...]


def _rows(title: str) -> dict[str, str]:
    text = SPEC.read_text().partition(f"| {title} |")[2].partition("\n\n")[0]
    rows = (line.split(" | ", 1) for line in text.splitlines() if line.startswith(("| `", "| *")))
    return {first.removeprefix("| "): second for first, second in rows}


def _fields(text: str) -> tuple[str, ...]:
    """The names in it that do not stand in parentheses."""
    return tuple(re.findall(r"`([a-z0-9_]+)`", re.sub(r"\([^()]*\)", "", text)))


def spec() -> dict[str, Value]:
    """By command, without `ioflt`."""
    objects = {name.strip("*"): _fields(text) for name, text in _rows("object | fields").items()}
    said = {}
    for commands, text in _rows("command | value").items():
        is_list, text = text.startswith("list of "), text.removeprefix("list of ")
        named = re.match(r"\*([a-z ]+)\*", text)
        value = Value(is_list, objects[named[1]] if named else _fields(text))
        for command in re.findall("`([a-z0-9 -]+)`", commands):
            assert command not in said
            said[command] = value
    return said


def check(command: str, printed: object) -> None:
    """What the command printed with `--json` is what the text says."""
    said = spec()[command]
    if said.is_list:
        assert isinstance(printed, list)
        assert printed, "nothing was shown"
    for value in printed if isinstance(printed, list) else [printed]:
        if value is not None and said.fields:
            assert isinstance(value, dict)
            assert tuple(value) == said.fields
