"""Progress of long work for tools: lines of JSON on standard error."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ioflt.cli.backup.watching import watched

if TYPE_CHECKING:
    import pytest


def test_lines_say_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with watched("backing up web", 1 << 20, lines=True) as bar:
        for _ in range(4):
            bar.advance(1 << 18)
    told = capsys.readouterr()
    assert told.out == ""
    lines = [json.loads(line) for line in told.err.splitlines()]
    assert all(tuple(line) == ("progress", "done", "total", "rate", "seconds_left") for line in lines)
    last = lines[-1]
    assert (last["progress"], last["done"], last["total"]) == ("backing up web", 1 << 20, 1 << 20)
    assert last["seconds_left"] == 0
    assert last["rate"] > 0


def test_a_total_that_nobody_knows(capsys: pytest.CaptureFixture[str]) -> None:
    with watched("verifying", None, lines=True):
        pass
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["done"], line["total"], line["seconds_left"]) == (0, None, None)


def test_nothing_is_said_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with watched("verifying", None, lines=False) as bar:
        bar.advance(1)
    assert capsys.readouterr().err == ""
