"""Progress of long work: a bar for people, or lines of JSON for tools (SPEC.md)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import click

from ioflt.cli.render import Progress, progress

#: Seconds between two lines.
_PAUSE = 0.5

_Command = TypeVar("_Command", bound=Callable[..., object])


def progress_option(command: _Command) -> _Command:
    """Add `--json-progress` (parameter `lines`)."""
    told = "Tell progress on standard error, as lines of JSON."
    return click.option("--json-progress", "lines", is_flag=True, help=told)(command)


@contextmanager
def watched(title: str, total: int | None, lines: bool) -> Iterator[Progress]:
    """`total` of bytes, None where it is not known beforehand."""
    if not lines:
        with progress(title, total) as bar:
            yield bar
        return
    teller = _Teller(title, total)
    yield teller
    teller.tell()


class _Teller:
    def __init__(self, title: str, total: int | None) -> None:
        self._title = title
        self._total = total
        self._done = 0
        self._begun = time.monotonic()
        self._told = 0.0

    def advance(self, count: int) -> None:
        self._done += count
        if time.monotonic() - self._told >= _PAUSE:
            self.tell()

    def tell(self) -> None:
        self._told = time.monotonic()
        rate = int(self._done / max(self._told - self._begun, 1e-3))
        left = None
        if self._total is not None and rate:
            left = max(0, self._total - self._done) // rate
        line = {
            "progress": self._title,
            "done": self._done,
            "total": self._total,
            "rate": rate,
            "seconds_left": left,
        }
        print(json.dumps(line), file=sys.stderr, flush=True)
