"""What commands that measure have in common: arguments, and how they end."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import NoReturn

#: Where is measured: temporary files are often in memory, these are not.
DIRECTORY = Path("/var/tmp")  # noqa: S108 (a directory of its own is made there)

#: They end a run, beside Ctrl-C.
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def count(text: str) -> int:
    """What an argument says; argparse shows this name."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def duration(text: str) -> float:
    value = float(text)
    if not 0.01 <= value <= 3600:  # nan is in no range
        raise argparse.ArgumentTypeError("from 0.01 to 3,600")
    return value


def end_by_signals() -> None:
    """From now on they raise SystemExit: what was begun is cleaned up."""
    for number in _ENDING:
        signal.signal(number, _end)


def clean_up_whole() -> None:
    """From now on none does: a second one would leave mounts, keyd and directories."""
    for number in (signal.SIGINT, *_ENDING):
        signal.signal(number, signal.SIG_IGN)


def _end(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)
