"""The gate: who waits, who fails, who passes, while keys are locked or writes held back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from ioflt.datastore.home import Home
from ioflt.errors import BusyError, ProviderLocked
from ioflt.fuse.gate import Gate
from ioflt.fuse.turns import Turns

pytestmark = pytest.mark.allow_log("^vm/[a-z]+: the key cache is locked$")


class Requests:
    """Requests that pass a gate in tasks of their own; `outcome` says what became of each."""

    def __init__(self, gate: Gate, nursery: trio.Nursery) -> None:
        self.gate = gate
        self.outcome: dict[str, str] = {}
        self._nursery = nursery

    async def send(self) -> dict[str, str]:
        """One of each kind."""
        self.outcome = {}
        for kind, passes in (("read", self.gate.read), ("write", self.gate.write)):
            for keyless in (False, True):
                self._nursery.start_soon(self._run, f"{kind}{' keyless' * keyless}", passes, keyless)
        return await self.now()

    async def now(self) -> dict[str, str]:
        await trio.testing.wait_all_tasks_blocked()
        return dict(sorted(self.outcome.items()))

    async def _run(self, name: str, passes: Callable[..., Awaitable[None]], keyless: bool) -> None:
        self.outcome[name] = "waits"
        try:
            await passes("vm/disk", keyless=keyless)
            self.outcome[name] = "passes"
        except ProviderLocked:
            self.outcome[name] = "fails"


def outcome(read: str, read_keyless: str, write: str, write_keyless: str) -> dict[str, str]:
    return {
        "read": read,
        "read keyless": read_keyless,
        "write": write,
        "write keyless": write_keyless,
    }


ALL_PASS = outcome("passes", "passes", "passes", "passes")


async def test_open() -> None:
    async with trio.open_nursery() as nursery:
        gate = Gate()
        assert not gate.closed
        assert await Requests(gate, nursery).send() == ALL_PASS


async def test_suspended() -> None:
    async with trio.open_nursery() as nursery:
        gate = Gate()
        requests = Requests(gate, nursery)
        gate.suspend()
        gate.suspend()  # the second lock finds it locked
        assert gate.closed
        assert gate.locked
        assert await requests.send() == outcome("waits", "passes", "waits", "passes")
        gate.open()
        assert await requests.now() == ALL_PASS
        assert not gate.closed


async def test_denied() -> None:
    async with trio.open_nursery() as nursery:
        gate = Gate()
        requests = Requests(gate, nursery)
        gate.deny()
        assert gate.locked
        assert await requests.send() == outcome("fails", "passes", "fails", "passes")
        gate.open()
        assert await requests.send() == ALL_PASS


async def test_while_pages_are_dropped_before_a_lock_by_force() -> None:
    async with trio.open_nursery() as nursery:
        gate = Gate()
        requests = Requests(gate, nursery)
        gate.begin(deny_reads=True)
        assert gate.locked
        assert await requests.send() == outcome("fails", "passes", "passes", "passes")
        gate.deny()
        assert await requests.send() == outcome("fails", "passes", "fails", "passes")
        gate.open()
        assert await requests.send() == ALL_PASS


async def test_while_pages_are_dropped_before_a_suspension() -> None:
    async with trio.open_nursery() as nursery:
        gate = Gate()
        requests = Requests(gate, nursery)
        gate.begin(deny_reads=False)
        assert await requests.send() == ALL_PASS
        with pytest.raises(ProviderLocked):
            gate.enter("vm/disk", keyless=False)
        gate.enter("plain/disk", keyless=True)
        gate.open()  # it is not locked after all
        gate.enter("vm/disk", keyless=False)
        assert not gate.closed


async def test_refusals_name_the_file_once_for_each_lock(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    for lock in (1, 2):
        gate.begin(deny_reads=True)
        gate.deny()
        for file in ("vm/a", "vm/b") * 10:
            with pytest.raises(ProviderLocked, match=f"^{file}: "):
                await gate.read(file, keyless=False)
            with pytest.raises(ProviderLocked, match=f"^{file}: "):
                await gate.write(file, keyless=False)
            with pytest.raises(ProviderLocked, match=f"^{file}: "):
                gate.enter(file, keyless=False)
        gate.open()
        locked = [f"{file}: the key cache is locked" for file in ("vm/a", "vm/b")]
        assert [record.message for record in caplog.records] == locked * lock


async def test_what_waits_fails_when_it_is_denied_after_all() -> None:
    async with trio.open_nursery() as nursery:
        gate = Gate()
        requests = Requests(gate, nursery)
        gate.suspend()
        await requests.send()
        gate.deny()
        assert await requests.now() == outcome("fails", "passes", "fails", "passes")


async def test_writes_held_back_until_the_last_who_asked_for_it_is_gone() -> None:
    async with trio.open_nursery() as nursery:
        gate = Gate()
        requests = Requests(gate, nursery)
        gate.hold_writes()
        gate.hold_writes()
        assert not gate.locked
        assert await requests.send() == outcome("passes", "passes", "waits", "waits")
        gate.release_writes()
        assert await requests.now() == outcome("passes", "passes", "waits", "waits")
        gate.release_writes()
        assert await requests.now() == ALL_PASS
        assert not gate.closed


@pytest.mark.parametrize("release_first", [True, False])
async def test_held_back_and_suspended(release_first: bool) -> None:
    async with trio.open_nursery() as nursery:
        gate = Gate()
        requests = Requests(gate, nursery)
        gate.hold_writes()
        gate.suspend()
        assert await requests.send() == outcome("waits", "passes", "waits", "waits")
        if release_first:
            gate.release_writes()
            assert await requests.now() == outcome("waits", "passes", "waits", "passes")
            gate.open()
        else:
            gate.open()
            assert await requests.now() == outcome("passes", "passes", "waits", "waits")
            gate.release_writes()
        assert await requests.now() == ALL_PASS


async def test_a_write_that_waited_for_a_quiesce_meets_the_lock_that_came_meanwhile() -> None:
    async with trio.open_nursery() as nursery:
        gate = Gate()
        requests = Requests(gate, nursery)
        gate.hold_writes()
        await requests.send()
        gate.deny()
        gate.release_writes()
        assert await requests.now() == outcome("passes", "passes", "fails", "passes")


async def test_held_back_again_before_the_waiter_ran() -> None:
    async with trio.open_nursery() as nursery:
        gate = Gate()
        requests = Requests(gate, nursery)
        gate.hold_writes()
        await requests.send()
        gate.release_writes()
        gate.hold_writes()
        assert await requests.now() == outcome("passes", "passes", "waits", "waits")
        nursery.cancel_scope.cancel()


async def test_writes_to_one_home_wait_and_others_pass() -> None:
    async with trio.open_nursery() as nursery:
        gate = Gate()
        web, db = (Home.__new__(Home) for _ in range(2))
        passed: list[str] = []

        async def write(name: str, *homes: Home) -> None:
            await gate.write("vm/disk", keyless=False, homes=homes)
            passed.append(name)

        gate.hold_writes(web)
        assert gate.closed
        for name, homes in {"web": (web,), "db": (db,), "both": (db, web)}.items():
            nursery.start_soon(write, name, *homes)
        await trio.testing.wait_all_tasks_blocked()
        assert passed == ["db"]
        gate.hold_writes()
        gate.release_writes(web)
        await trio.testing.wait_all_tasks_blocked()
        assert passed == ["db"]
        gate.release_writes()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(passed) == ["both", "db", "web"]
        assert not gate.closed


async def test_a_vm_writes_for_as_long_as_it_waited(autojump_clock: trio.testing.MockClock) -> None:
    turns = Turns()
    web, db = (Home.__new__(Home) for _ in range(2))
    turns.begin(web)
    turns.begin(db)
    with pytest.raises(BusyError, match="wait for another backup"):
        await turns.await_own(web)
    with pytest.raises(BusyError, match="wait for another backup"):
        turns.begin(web)
    await trio.sleep(7)
    turns.end(web)
    with pytest.raises(BusyError, match="a moment ago"):
        turns.begin(web)
    ended = trio.current_time()
    await turns.await_own(web)
    assert trio.current_time() - ended == pytest.approx(7)
    turns.begin(web)
