"""What makes a file opens it: its key goes from hand to hand, and stays with nobody when that fails."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from ioflt.crypto.secret import Secret
from ioflt.datastore import files, newcontainer
from ioflt.datastore.container import Container
from ioflt.datastore.standing import Treatment
from ioflt.datastore.volume import Volume
from ioflt.errors import StorageError
from ioflt.fuse.opening import Opener
from ioflt.testing.local_keys import LocalKeys
from tests.operations.fuse.client import ROOT, Client, fails


def held(home: Path, name: str) -> list[str]:
    """The descriptors that are open of that file."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that lists them
            if os.readlink(f"/proc/self/fd/{fd}") == str(home / name):
                found.append(fd)
    return found


def broken(*_args: object, **_options: object) -> None:
    raise StorageError("broken", errno.EIO)


@pytest.fixture
def deks(monkeypatch: pytest.MonkeyPatch) -> list[Secret]:
    """Of all containers that are made from now on."""
    found: list[Secret] = []
    make = newcontainer.make

    def noted(*args: object, **options: object) -> newcontainer.New:
        new = make(*args, **options)
        found.append(new.dek)
        return new

    monkeypatch.setattr(newcontainer, "make", noted)
    return found


async def test_keyd_is_asked_once(client: Client, keys: LocalKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    top = (await client.lookup(ROOT, "vm")).st_ino
    with monkeypatch.context() as patch:
        patch.setattr(type(keys), "unwrap", broken)
        handle, _ = await client.create(top, "new")
        await client.write(handle, b"content", 0)
        await client.operations.fsync(handle, datasync=False)
        assert await client.read(handle, 0, 100) == b"content"
    await client.end()


async def test_its_key_is_wiped_once_it_is_open(client: Client, deks: list[Secret]) -> None:
    top = (await client.lookup(ROOT, "vm")).st_ino
    await client.create(top, "new")
    assert [dek.wiped for dek in deks] == [True]
    await client.end()


@pytest.mark.parametrize(
    ("where", "what"), [(Container, "__init__"), (Opener, "_at_once"), (Opener, "_treatment")]
)
@pytest.mark.allow_log("broken")
async def test_what_fails_leaves_no_key(
    client: Client,
    datastore: Path,
    deks: list[Secret],
    monkeypatch: pytest.MonkeyPatch,
    where: type,
    what: str,
) -> None:
    top = (await client.lookup(ROOT, "vm")).st_ino
    with monkeypatch.context() as patch:
        patch.setattr(where, what, broken)
        with fails(errno.EIO):
            await client.create(top, "new")
    assert [dek.wiped for dek in deks] == [True]
    assert held(datastore / "vm", "new") == []
    await client.end()


async def test_who_is_cancelled_leaves_no_key(
    client: Client, datastore: Path, deks: list[Secret], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session ends while a thread is waited for that would open it."""
    top = (await client.lookup(ROOT, "vm")).st_ino
    with trio.CancelScope() as scope, monkeypatch.context() as patch:

        def ending(*_about: object) -> None:
            scope.cancel()

        patch.setattr(Opener, "_at_once", ending)
        await client.create(top, "new")
    assert scope.cancelled_caught
    assert [dek.wiped for dek in deks] == [True]
    assert held(datastore / "vm", "new") == []
    await client.end()


def test_it_is_opened_as_something_else(volume: Volume, deks: list[Secret]) -> None:
    """Its name became another one meanwhile."""
    home = volume.home("vm")
    made = files.make(home, home.fd, "new", mode=0o600)
    files.open_file(home, made.fd, Treatment.CLEAR, writable=True, place=lambda: None, new=made.new).close()
    assert [dek.wiped for dek in deks] == [True]
