"""How many connections there may be, and how long one may take to say who it is."""

from __future__ import annotations

import os
from contextlib import ExitStack

import trio
from trio.testing import MockClock

from ioflt import paths
from ioflt.datastore.memory import Memory
from ioflt.keyd import accounts, guests
from ioflt.keyd.access import Access
from ioflt.keyd.authority import Authority
from ioflt.keyd.denials import Denials
from ioflt.keyd.guests import MAX_EACH, Guests, Room
from ioflt.keyd.holdings import Holdings
from ioflt.keyd.home_ids import HomeIds
from ioflt.keyd.permits import Rules
from ioflt.keyd.server import HELLO_S, Server
from ioflt.keyd.service import Service
from ioflt.keyd.shared_keys import SharedKeys
from ioflt.transport.listener import Listener
from ioflt.transport.unix import Peer

ROOTS = Access(0, 77)


def rooms(there: Guests, stack: ExitStack, uid: int, count: int) -> list[Room]:
    return [stack.enter_context(there.entered(Peer(1, uid, uid))) for _ in range(count)]


def test_one_user_takes_no_more_than_his_own() -> None:
    there = Guests(ROOTS, 100_000)
    with ExitStack() as one, ExitStack() as other:
        assert rooms(there, one, 1000, 4 * MAX_EACH) == (
            [Room.SERVED] * MAX_EACH + [Room.TOLD] * MAX_EACH + [Room.CLOSED] * 2 * MAX_EACH
        )
        assert rooms(there, other, 1001, 1) == [Room.SERVED]
        one.close()
        assert rooms(there, other, 1000, 1) == [Room.SERVED]


def test_all_together_leave_room_for_root() -> None:
    there = Guests(ROOTS, 100)
    with ExitStack() as stack:
        given = [room for uid in range(1000, 1020) for room in rooms(there, stack, uid, 10)]
        assert given == [Room.SERVED] * 100 + [Room.CLOSED] * 100
        assert rooms(there, stack, 0, 500) == [Room.SERVED] * 500


def test_who_does_not_say_who_he_is_is_cut_off(ioflt_home) -> None:
    where = paths.find().ensure()
    service = Service(where)
    rules = Rules(
        Authority(where.access, accounts.user(os.geteuid())),
        Holdings(SharedKeys(where.shared_keys)),
        HomeIds(where.home_ids),
        Memory(where.homes),
        Denials(service.recorder),
    )
    server = Server(service, Access.of_this_process(system=False), rules)

    async def stall(beginning: bytes) -> float:
        async with await trio.open_unix_socket(os.fspath(where.keyd_socket)) as stream:
            began = trio.current_time()
            await stream.send_all(beginning)
            assert await stream.receive_some(1) == b""
            return trio.current_time() - began

    async def main() -> list[float]:
        listening = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, listener, listening.set)
            await listening.wait()
            took = [await stall(beginning) for beginning in (b"", b"\x10\0", b"\x10\0\0\0\x82")]
            server.stop()
        return took

    try:
        with Listener(where.keyd_socket, 0o600, None) as listener:
            assert trio.run(main, clock=MockClock(autojump_threshold=0)) == [HELLO_S] * 3
    finally:
        service.close()


def test_half_of_the_descriptors_are_not_for_guests(monkeypatch) -> None:
    monkeypatch.setattr(guests.resource, "getrlimit", lambda _: (64, 64))
    with ExitStack() as stack:
        assert rooms(Guests(ROOTS), stack, 1000, 33)[-2:] == [Room.SERVED, Room.CLOSED]
