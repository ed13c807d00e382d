"""What a thread does ahead: in order, bounded, each error once and in its place, and no thread afterwards."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import pytest

from ioflt import ahead


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


class Here(Exception):
    """Raised by a test."""


@contextmanager
def set_at_end(event: threading.Event) -> Iterator[None]:
    try:
        yield
    finally:
        event.set()


def fails_at(number: int, error: BaseException) -> Callable[[int], int]:
    def work(item: int) -> int:
        if item == number:
            raise error
        return item

    return work


def numbers(end: int, error: BaseException | None = None) -> Generator[int, None, None]:
    """Those below `end`, then the error."""
    yield from range(end)
    if error is not None:
        raise error


@pytest.mark.parametrize("count", [0, 1, ahead.AHEAD, ahead.AHEAD + 1, 50])
def test_results_come_in_order(count):
    with ahead.worked(lambda item: item * 2, range(count)) as found:
        assert list(found) == [item * 2 for item in range(count)]
    with ahead.taken(numbers(count)) as taken:
        assert list(taken) == list(range(count))


def test_one_other_thread_works_and_the_callers_takes_the_items():
    takers, workers = set(), set()

    def items() -> Iterator[int]:
        for item in range(9):
            takers.add(threading.get_ident())
            yield item

    with ahead.worked(lambda _: workers.add(threading.get_ident()), items()) as found:
        assert len(list(found)) == 9
    assert takers == {threading.get_ident()}
    assert len(workers) == 1
    assert workers.isdisjoint(takers)


def test_items_are_taken_by_one_other_thread():
    takers = set()

    def items() -> Generator[int, None, None]:
        for item in range(9):
            takers.add(threading.get_ident())
            yield item

    with ahead.taken(items()) as found:
        assert len(list(found)) == 9
    assert len(takers) == 1
    assert threading.get_ident() not in takers


def test_work_is_done_beside_the_caller_but_not_far_ahead():
    done = threading.Semaphore(0)
    begun = []

    def work(item: int) -> int:
        begun.append(item)
        done.release()
        return item

    with ahead.worked(work, range(100)) as found:
        for number, _ in enumerate(found):
            assert done.acquire(timeout=60)
            if number + ahead.AHEAD < 100:  # it is begun without being asked for
                assert len(begun) <= number + ahead.AHEAD + 1
    assert begun == list(range(100))


@pytest.mark.parametrize("number", [0, 1, 5, 9])
@pytest.mark.parametrize("kind", [Here, KeyboardInterrupt, SystemExit])
def test_an_error_of_work_comes_once_where_its_result_would_have_been(number, kind):
    error, got = kind(), []
    with pytest.raises(kind) as raised, ahead.worked(fails_at(number, error), range(10)) as found:
        got.extend(found)
    assert raised.value is error
    assert got == list(range(number))


@pytest.mark.parametrize("number", [0, 1, 5])
def test_an_error_of_items_ends_it_at_once(number):
    error = Here()
    with pytest.raises(Here) as raised, ahead.worked(str, numbers(number, error)) as found:
        list(found)
    assert raised.value is error


@pytest.mark.parametrize("number", [0, 1, 5])
def test_an_error_of_taken_items_comes_after_those_before_it(number):
    error, got = Here(), []
    with pytest.raises(Here) as raised, ahead.taken(numbers(number, error)) as found:
        got.extend(found)
    assert raised.value is error
    assert got == list(range(number))


@pytest.mark.parametrize("number", [0, 1, 5])
def test_an_error_of_the_caller_ends_all_of_it(number):
    error, begun = Here(), []
    with pytest.raises(Here) as raised, ahead.worked(begun.append, range(1000)) as found:
        deque(map(fails_at(number, error), (count for count, _ in enumerate(found))))
    assert raised.value is error
    assert len(begun) <= number + ahead.AHEAD + 1


def test_a_caller_that_leaves_waits_for_what_is_under_way():
    second, go_on = threading.Event(), threading.Event()
    begun, over = [], []

    def work(item: int) -> None:
        begun.append(item)
        if item == 1:
            second.set()
            go_on.wait(60)
        over.append(item)

    with ahead.worked(work, range(1000)) as found:
        next(found)
        assert second.wait(60)
        threading.Thread(target=go_on.set).start()
    assert over == begun
    assert len(over) <= ahead.AHEAD + 1


def test_ctrl_c_while_a_result_is_waited_for():
    go_on, begun, over = threading.Event(), [], []

    def work(item: int) -> None:
        begun.append(item)
        if item == 1:
            os.kill(os.getpid(), signal.SIGINT)  # the main thread hears it, and waits no longer
            go_on.wait(60)
        over.append(item)

    with pytest.raises(KeyboardInterrupt), ahead.worked(work, range(1000)) as found, set_at_end(go_on):
        deque(found, maxlen=0)
    assert over == begun
    assert len(over) <= 1 + ahead.AHEAD + 1


def test_taken_items_are_closed_when_the_block_ends():
    closed = []

    def items() -> Generator[int, None, None]:
        try:
            yield from range(1000)
        finally:
            closed.append(threading.get_ident())

    with ahead.taken(items()) as found:
        assert next(found) == 0
    assert closed == [threading.get_ident()]
