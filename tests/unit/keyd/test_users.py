"""Who uses a key: processes that are connected, whichever of their connections they used it over."""

import contextvars

from ioflt.keyd import users as module
from ioflt.keyd.users import Users
from ioflt.transport.unix import Peer
from ioflt.types import KeyRef

A, B = KeyRef("p", "a"), KeyRef("p", "b")


def pids(users, key):
    return [user.pid for user in users.of(key)]


def test_while_they_are_connected():
    users = Users()
    with users.connected(Peer(2, 0, 0)):
        users.used(A)
        assert (pids(users, A), pids(users, B), users.connections) == ([2], [], 1)
    assert (pids(users, A), users.connections) == ([], 0)


def test_one_process_with_two_connections():
    users = Users()
    with users.connected(Peer(2, 0, 0)):
        with users.connected(Peer(2, 0, 0)):
            users.used(A)
            assert users.connections == 2
        assert pids(users, A) == [2]
    assert pids(users, A) == []


def test_a_pid_of_another_user_is_another_process():
    users = Users()
    with users.connected(Peer(2, 0, 0)), users.connected(Peer(2, 1000, 0)):
        users.used(A)
        assert [(user.pid, user.uid) for user in users.of(A)] == [(2, 1000)]


def test_each_asks_for_itself():
    """Tasks of a server, and the threads that answer, have contexts of their own."""
    users = Users()
    one, two = contextvars.copy_context(), contextvars.copy_context()
    first, second = users.connected(Peer(1, 0, 0)), users.connected(Peer(2, 0, 0))
    one.run(first.__enter__)
    two.run(second.__enter__)
    one.run(users.used, A)
    two.run(users.used, A)
    two.copy().run(users.used, B)
    users.used(B)  # by nobody: keyd itself
    assert (pids(users, A), pids(users, B)) == ([1, 2], [2])
    one.run(first.__exit__, None, None, None)
    assert pids(users, A) == [2]
    two.run(second.__exit__, None, None, None)
    assert pids(users, A) == []


def test_there_is_an_end_to_what_is_remembered(monkeypatch):
    monkeypatch.setattr(module, "CAPACITY", 2)
    users = Users()
    with users.connected(Peer(1, 0, 0)):
        for name in "abc":
            users.used(KeyRef("p", name))
        assert [pids(users, KeyRef("p", name)) for name in "abc"] == [[], [1], [1]]
