"""Text and JSON output."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from ioflt.cli.render import describe, emit, printable, progress, size, table


@dataclass
class Part:
    name: str
    length: int | None = None


@dataclass
class Whole:
    home_id: str
    key: str | None = None
    parts: list[Part] = field(default_factory=list)
    extra: dict[str, int] = field(default_factory=dict)


WHOLE = Whole("h1", None, [Part("a\x1b"), Part("longer", 7)], {"one": 1})


def test_json_is_data_alone(capsys: pytest.CaptureFixture[str]) -> None:
    emit(WHOLE, lambda: None, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["parts"][1] == {"name": "longer", "length": 7}


def test_names_that_are_not_utf8_survive_json(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"name": "\udcff"}, lambda: None, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"name": "\udcff"}


def test_describe(capsys: pytest.CaptureFixture[str]) -> None:
    describe(WHOLE)
    assert capsys.readouterr().out.splitlines() == [
        "home id  h1",
        "",
        "parts:",
        "NAME    LENGTH",
        r"a\x1b",
        "longer  7",
        "",
        "extra:",
        "one  1",
    ]


def test_a_table_is_not_cut_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    table(("A", "B"), [("x" * 300, "[bold]")])
    assert capsys.readouterr().out.splitlines()[1] == "x" * 300 + "  [bold]"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 << 30, "5.0 GiB"),
        (1 << 70, "1024.0 EiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text


def test_printable() -> None:
    assert printable("grün 漢 \x1b[31m\r\n\x85\u202e") == r"grün 漢 \x1b[31m\r\n\x85\u202e"


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("encrypting", 10) as bar:
        bar.advance(10)
    assert capsys.readouterr() == ("", "")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watched(monkeypatch: pytest.MonkeyPatch, *times: float) -> str:
    """What a terminal gets of a bar that begins at the first of the times and advances at each other one."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("ioflt.cli.render.time", SimpleNamespace(monotonic=iter(times).__next__))
    with progress("checking ds", None, files=True) as bar:
        for _ in times[1:]:
            bar.advance(1)
    return terminal.getvalue()


def test_a_bar_is_shown_once_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "checking ds" in watched(monkeypatch, 0, 0.1, 0.6)


def test_what_is_soon_done_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(monkeypatch, 0, 0.1, 0.2) == ""
