"""Range locks: who overlaps waits, in the order of arrival; nobody else does, and nobody for ever."""

from __future__ import annotations

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from ioflt.fuse.ranges import END, RangeLocks


class Log:
    """Tasks that take a range, say so, and hold it until told to let go."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.locks = RangeLocks()
        self.held: list[str] = []
        self._nursery = nursery
        self._ends: dict[str, trio.Event] = {}
        self._scopes: dict[str, trio.CancelScope] = {}

    async def take(self, name: str, start: int, end: int, *, exclusive: bool) -> None:
        self._ends[name], self._scopes[name] = trio.Event(), trio.CancelScope()

        async def run() -> None:
            with self._scopes[name]:
                async with self.locks.hold(start, end, exclusive=exclusive):
                    self.held.append(name)
                    await self._ends[name].wait()
                    self.held.remove(name)

        self._nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()

    async def drop(self, name: str) -> None:
        self._ends[name].set()
        await trio.testing.wait_all_tasks_blocked()

    async def cancel(self, name: str) -> None:
        self._scopes[name].cancel()
        await trio.testing.wait_all_tasks_blocked()


async def test_shared_ranges_overlap() -> None:
    async with trio.open_nursery() as nursery:
        log = Log(nursery)
        await log.take("a", 0, 10, exclusive=False)
        await log.take("b", 5, 15, exclusive=False)
        assert log.held == ["a", "b"]
        assert log.locks.free(0, END, exclusive=False)
        assert not log.locks.free(14, 15, exclusive=True)
        assert log.locks.free(15, END, exclusive=True)
        nursery.cancel_scope.cancel()


async def test_exclusive_ranges_exclude_what_they_touch_only() -> None:
    async with trio.open_nursery() as nursery:
        log = Log(nursery)
        await log.take("a", 0, 10, exclusive=True)
        await log.take("reader", 9, 20, exclusive=False)
        await log.take("neighbour", 10, 11, exclusive=False)
        assert log.held == ["a", "neighbour"]
        await log.drop("a")
        assert log.held == ["neighbour", "reader"]
        nursery.cancel_scope.cancel()


async def test_in_the_order_of_arrival() -> None:
    async with trio.open_nursery() as nursery:
        log = Log(nursery)
        for name in "abcd":
            await log.take(name, 0, 10, exclusive=True)
        for name in "abcd":
            assert log.held == [name]
            await log.drop(name)
        assert log.locks.free(0, END, exclusive=True)


async def test_a_writer_is_not_starved_by_readers_that_come_after_it() -> None:
    async with trio.open_nursery() as nursery:
        log = Log(nursery)
        await log.take("early", 0, 10, exclusive=False)
        await log.take("writer", 0, 10, exclusive=True)
        await log.take("late", 0, 10, exclusive=False)
        await log.take("elsewhere", 20, 30, exclusive=False)
        assert log.held == ["early", "elsewhere"]
        await log.drop("early")
        assert log.held == ["elsewhere", "writer"]
        await log.drop("writer")
        assert log.held == ["elsewhere", "late"]
        nursery.cancel_scope.cancel()


async def test_a_waiter_that_gives_up_lets_those_behind_it_pass() -> None:
    async with trio.open_nursery() as nursery:
        log = Log(nursery)
        await log.take("early", 0, 10, exclusive=False)
        await log.take("writer", 0, 10, exclusive=True)
        await log.take("late", 0, 10, exclusive=False)
        await log.cancel("writer")
        assert log.held == ["early", "late"]
        await log.drop("early")
        await log.drop("late")
        assert log.locks.free(0, END, exclusive=True)


async def test_a_waiter_cancelled_as_it_is_granted_leaves_nothing_held() -> None:
    async with trio.open_nursery() as nursery:
        log = Log(nursery)
        await log.take("first", 0, 10, exclusive=True)
        await log.take("second", 0, 10, exclusive=True)
        log._ends["first"].set()
        log._scopes["second"].cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert log.held == []
        assert log.locks.free(0, END, exclusive=True)


async def test_the_range_is_free_again_after_an_error() -> None:
    locks = RangeLocks()
    try:
        async with locks.hold(0, 10, exclusive=True):
            raise ValueError
    except ValueError:
        pass
    assert locks.free(0, END, exclusive=True)


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(1, 4), st.booleans(), st.integers(0, 5)), max_size=30),
    st.integers(0, 2**16),
)
def test_no_two_that_conflict_ever_hold_and_all_get_their_turn(
    requests: list[tuple[int, int, bool, int]], seed: int
) -> None:
    locks = RangeLocks()
    holding: list[tuple[int, int, bool]] = []
    done = 0

    async def one(start: int, end: int, exclusive: bool, pauses: int) -> None:
        nonlocal done
        async with locks.hold(start, end, exclusive=exclusive):
            for other_start, other_end, other_exclusive in holding:
                assert not (start < other_end and other_start < end and (exclusive or other_exclusive))
            holding.append((start, end, exclusive))
            for _ in range(pauses):
                await trio.lowlevel.checkpoint()
            holding.remove((start, end, exclusive))
        done += 1

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for start, length, exclusive, pauses in requests:
                nursery.start_soon(one, start, start + length, exclusive, pauses)
                for _ in range(seed % 3):
                    await trio.lowlevel.checkpoint()

    trio.run(main)
    assert done == len(requests)
