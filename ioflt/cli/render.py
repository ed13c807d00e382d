"""Output: data as JSON or as text, progress on a terminal, names of strangers made safe to print."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import click

#: Seconds of work before a bar is shown.
_PATIENCE = 0.5

_Command = TypeVar("_Command", bound=Callable[..., object])


def json_option(command: _Command) -> _Command:
    """Add `--json` (parameter `as_json`) to a command that lists or shows."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def emit(data: object, text: Callable[[], None], as_json: bool) -> None:
    """Print `data` as one JSON value, or call `text` to print it for people."""
    if not as_json:
        text()
        return
    import msgspec

    # ensure_ascii keeps names that are not UTF-8 (surrogates, as os.fsdecode makes them) printable
    print(json.dumps(msgspec.to_builtins(data, enc_hook=str), indent=2))


def printable(text: str) -> str:
    """`text` without control characters and surrogates: a name from a datastore may hold any byte."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under headings, as wide as they need to be where standard output is not a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console() if sys.stdout.isatty() else Console(width=10_000, no_color=True)
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(printable(str(cell))) for cell in row))
    with console.capture() as captured:
        console.print(made)
    for line in captured.get().splitlines():
        print(line.rstrip())


def facts(pairs: Sequence[tuple[str, object]]) -> None:
    """Print name and value lines, the values aligned."""
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        if isinstance(value, bool):
            value = "yes" if value else "no"
        print(f"{name:<{width}}  {printable(str(value))}".rstrip())


def describe(data: object) -> None:
    """Print a record of any shape for people: plain fields aligned, lists of records as tables below."""
    import msgspec

    fields = msgspec.to_builtins(data, enc_hook=str)
    plain = {name: value for name, value in fields.items() if not isinstance(value, dict | list)}
    facts([(_title(name), value) for name, value in plain.items() if value is not None])
    for name, value in fields.items():
        if isinstance(value, dict):
            print(f"\n{_title(name)}:")
            describe(value)
        elif value and isinstance(value, list):
            print(f"\n{_title(name)}:")
            _describe_list(value)


def _describe_list(items: list[Any]) -> None:
    if not all(isinstance(item, dict) for item in items):
        for item in items:
            print(printable(str(item)))
        return
    columns = [name for name in items[0] if any(item[name] not in (None, [], {}) for item in items)]
    table(
        [_title(name).upper() for name in columns],
        [["" if item[name] is None else item[name] for name in columns] for item in items],
    )


def _title(name: str) -> str:
    return name.replace("_", " ")


def size(count: int) -> str:
    """A number of bytes for people: `512 B`, `1.5 GiB`."""
    if count < 1024:
        return f"{count} B"
    units = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    power = min((count.bit_length() - 1) // 10, len(units))
    return f"{count / 1024**power:.1f} {units[power - 1]}"


def moment(seconds: int | None) -> str | None:
    """A time in seconds since 1970, as ISO 8601 in UTC; what is beyond its years as it is."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def say(message: str) -> None:
    """Tell people something that is not data, on standard error."""
    print(f"ioflt: {printable(message)}", file=sys.stderr)


def warn(message: str) -> None:
    """Tell people something that they should act on, on standard error."""
    print(f"ioflt: warning: {printable(message)}", file=sys.stderr)


class Progress(Protocol):
    """Takes note of work done."""

    def advance(self, count: int) -> None:
        """`count` more bytes, or files, are done."""


class _Silent:
    def advance(self, count: int) -> None:
        """Nobody watches."""


@contextmanager
def progress(title: str, total: int | None, *, files: bool = False) -> Iterator[Progress]:
    """A progress bar on standard error while the block runs; nothing where that is not a terminal.

    It is shown at the first advance after half a second.

    `total` of bytes, or of files; None where it is not known beforehand.
    """
    if not sys.stderr.isatty():
        yield _Silent()
        return
    from rich import progress as rich
    from rich.console import Console
    from rich.progress import Progress as Bars

    bytes_done = (rich.DownloadColumn(binary_units=True), rich.TransferSpeedColumn())
    columns = (
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        *((rich.MofNCompleteColumn(), rich.TextColumn("files")) if files else bytes_done),
        rich.TimeRemainingColumn(),
    )
    bars = Bars(*columns, console=Console(stderr=True), transient=True)
    task = bars.add_task(printable(title), total=total)
    begun = time.monotonic()

    class Bar:
        def advance(self, count: int) -> None:
            if time.monotonic() - begun > _PATIENCE:  # what is done sooner only flickers
                bars.start()
            bars.advance(task, count)

    try:
        yield Bar()
    finally:
        bars.stop()
