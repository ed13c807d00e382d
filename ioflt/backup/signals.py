"""Signals that end what has to put things back first: the first one is heard, and nothing is left by it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Told(KeyboardInterrupt):
    """A signal came; the text is its name."""


@contextmanager
def heard() -> Iterator[None]:
    """The first SIGTERM, SIGINT or SIGHUP raises `Told`, further ones change nothing. For the main thread.

    Under nohup(1), which ignores it, SIGHUP stays ignored.
    """

    def told(number: int, _frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise Told(signal.Signals(number).name)

    before = {number: signal.signal(number, told) for number in _numbers()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Those that come while the block runs take effect at its end."""
    if threading.current_thread() is not threading.main_thread():  # which alone hears them
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in _numbers()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _numbers() -> list[signal.Signals]:
    """Those that end something here."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in _ENDING if number != signal.SIGHUP or not ignored]
