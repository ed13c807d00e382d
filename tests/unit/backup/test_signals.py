"""Signals that end what has to put things back first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ioflt.backup import signals
from ioflt.backup.signals import Told

ENDING = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@contextmanager
def handler(number: signal.Signals, what: signal.Handlers) -> Iterator[None]:
    before = signal.signal(number, what)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", ENDING)
def test_the_first_one_is_told_and_no_other(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in ENDING]
    with pytest.raises(Told, match=number.name):
        _hear(number)
    assert [signal.getsignal(each) for each in ENDING] == before


@pytest.mark.parametrize("number", ENDING)
def test_what_is_held_back_comes_at_the_end(number: signal.Signals) -> None:
    done: list[str] = []
    with pytest.raises(Told, match=number.name):
        _hold_back(number, done)
    assert done == ["all"]


def _hear(number: signal.Signals) -> None:
    with signals.heard():
        try:
            signal.raise_signal(number)
        finally:  # what is put back is not interrupted
            for each in ENDING:
                signal.raise_signal(each)


def _hold_back(number: signal.Signals, done: list[str]) -> None:
    with signals.heard():
        with signals.held_back():
            signal.raise_signal(number)
            done.append("all")
        done.append("more")


def test_under_nohup_the_end_of_the_terminal_changes_nothing() -> None:
    with handler(signal.SIGHUP, signal.SIG_IGN), signals.heard(), signals.held_back():
        signal.raise_signal(signal.SIGHUP)
