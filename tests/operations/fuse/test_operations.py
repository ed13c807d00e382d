"""The handlers of a mount, called without one: what each answers, and that nothing of it is left behind."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from ioflt.datastore import atomic, lifecycle
from ioflt.datastore.container import Container
from ioflt.datastore.volume import Volume
from ioflt.fuse import fastpath
from ioflt.fuse.served import THREADS
from ioflt.testing.local_keys import LocalKeys
from tests.operations.fuse.client import ROOT, Client, fails, operations_of

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2


def times(top: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in top.rglob("*")}


@pytest.fixture(params=["vm", "plain"])
def home(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=["a.vmdk", "a.vmx"])
def name(request: pytest.FixtureRequest) -> str:
    text: str = request.param
    return text


class NoMemory:
    """The C files where nothing can be allocated any more."""

    class ffi:
        NULL = None

    class lib:
        @staticmethod
        def ioflt_file_new() -> None:
            return None

        @staticmethod
        def ioflt_handle_drop(_number: int) -> int:
            return 0


@pytest.mark.allow_log("a bug of ioflt")
async def test_an_open_without_memory_leaves_nothing_open(
    client: Client, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = (await client.lookup(ROOT, home)).st_ino
    handle, entry = await client.create(where, "disk")
    inode = entry.st_ino
    await client.close(handle)
    with monkeypatch.context() as patch:
        patch.setattr(fastpath, "_c", NoMemory)
        with fails(errno.EIO):
            await client.open(inode)
        with fails(errno.EIO):
            await client.create(where, "another")
    operations = client.operations
    assert operations.handles.files == {}
    assert all(node.file is None for node in operations.nodes.all())
    await client.close(await client.open(inode))


async def test_what_is_written_is_read(client: Client, home: str, name: str) -> None:
    top = (await client.lookup(ROOT, home)).st_ino
    handle, entry = await client.create(top, name)
    assert (entry.st_size, stat.S_IMODE(entry.st_mode), entry.st_nlink) == (0, 0o644, 1)
    assert await client.write(handle, b"one two", 5000) == 7
    assert await client.read(handle, 4998, 5) == b"\0\0one"
    assert await client.read(handle, 5007) == b""
    await client.operations.fsync(handle, datasync=False)
    await client.close(handle)
    again = await client.lookup(top, name)
    assert (again.st_ino, again.st_size) == (entry.st_ino, 5007)
    handle = await client.open(again.st_ino, os.O_RDONLY)
    assert await client.read(handle) == bytes(5000) + b"one two"
    await client.end()
    assert [node.number for node in client.operations.nodes.all()] == [ROOT]
    assert client.operations.handles.files == {}


async def test_it_is_ciphertext_behind(client: Client, datastore: Path) -> None:
    for home in ("vm", "plain"):
        top = (await client.lookup(ROOT, home)).st_ino
        for name in ("a.vmdk", "a.vmx"):
            handle, _ = await client.create(top, name)
            await client.write(handle, b"a canary in its cage")
            await client.close(handle)
            raw = (datastore / home / name).read_bytes()
            assert (b"canary" in raw) == (home == "plain")


async def test_names_that_are_not_there(client: Client) -> None:
    top = (await client.lookup(ROOT, "vm")).st_ino
    with fails(errno.ENOENT):
        await client.lookup(top, "none")
    with fails(errno.ENOENT):
        await client.unlink(top, "none")
    with fails(errno.ENOENT):
        await client.rename((top, "none"), (top, "other"))
    with fails(errno.ENAMETOOLONG):
        await client.lookup(top, "n" * 256)


async def test_a_name_that_is_taken(client: Client) -> None:
    top = (await client.lookup(ROOT, "vm")).st_ino
    handle, _ = await client.create(top, "a")
    await client.write(handle, b"kept")
    with fails(errno.EEXIST):
        await client.create(top, "a")
    with fails(errno.EEXIST):
        await client.mkdir(top, "a")
    with fails(errno.EEXIST):
        await client.mkdir(ROOT, "vm")
    assert await client.read(handle) == b"kept"


async def test_our_own_files_are_hidden(client: Client) -> None:
    for parent in (ROOT, (await client.lookup(ROOT, "vm")).st_ino):
        for private in (".ioflt", ".ioflt.d"):
            with fails(errno.ENOENT):
                await client.lookup(parent, private)
            with fails(errno.EPERM):
                await client.create(parent, private)
            with fails(errno.EPERM):
                await client.mkdir(parent, private)
            with fails(errno.EPERM):
                await client.unlink(parent, private)
    top = (await client.lookup(ROOT, "vm")).st_ino
    below = await client.mkdir(top, "below")
    await client.create(below, ".ioflt")  # there it means nothing


async def test_rename(client: Client, home: str) -> None:
    top = (await client.lookup(ROOT, home)).st_ino
    handles = {}
    for name in ("a", "b"):
        handles[name], _ = await client.create(top, name)
        await client.write(handles[name], name.encode())
    a, b = [(await client.lookup(top, name)).st_ino for name in ("a", "b")]
    with fails(errno.EEXIST):
        await client.rename((top, "a"), (top, "b"), RENAME_NOREPLACE)
    await client.rename((top, "a"), (top, "b"), RENAME_EXCHANGE)
    assert ((await client.lookup(top, "a")).st_ino, (await client.lookup(top, "b")).st_ino) == (b, a)
    await client.rename((top, "b"), (top, "a"))
    assert (await client.lookup(top, "a")).st_ino == a
    with fails(errno.ENOENT):
        await client.lookup(top, "b")
    assert await client.read(handles["b"]) == b"b"  # replaced while open
    assert await client.write(handles["b"], b"still here") == 10


async def test_rename_to_and_from_a_vmx_keeps_number_and_contents(client: Client) -> None:
    top = (await client.lookup(ROOT, "vm")).st_ino
    handle, entry = await client.create(top, "draft")
    await client.write(handle, b'displayName = "vm"\n')
    for old, new in (("draft", "vm.vmx"), ("vm.vmx", "draft")):
        await client.rename((top, old), (top, new))
        assert (await client.lookup(top, new)).st_ino == entry.st_ino
        assert await client.read(handle) == b'displayName = "vm"\n'


async def test_rename_to_a_vmx_syncs_no_directory_with_both_names(
    client: Client, datastore: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut leaves the file twice."""
    top = (await client.lookup(ROOT, "vm")).st_ino
    handle, _ = await client.create(top, "draft")
    await client.write(handle, b'displayName = "vm"\n')
    seen = []
    sync = atomic.sync_directory

    def look(dir_fd: int) -> None:
        seen.append(sorted(name for name in os.listdir(datastore / "vm") if not name.startswith(".")))
        sync(dir_fd)

    monkeypatch.setattr(atomic, "sync_directory", look)
    await client.rename((top, "draft"), (top, "vm.vmx"))
    await client.rename((top, "vm.vmx"), (top, "draft"))
    assert seen == [["vm.vmx"], ["draft"]]


async def test_between_homes_of_different_keys_nothing_is_moved(client: Client) -> None:
    vm, plain = [(await client.lookup(ROOT, name)).st_ino for name in ("vm", "plain")]
    handle, entry = await client.create(vm, "a")
    await client.close(handle)
    with fails(errno.EXDEV):
        await client.rename((vm, "a"), (plain, "a"))
    with fails(errno.EXDEV):
        await client.operations.link(entry.st_ino, plain, b"a", client.caller)
    assert set(await client.names(vm)) == {".", "..", "a"}
    assert set(await client.names(plain)) == {".", ".."}


async def test_unlinked_while_open(client: Client, home: str, name: str) -> None:
    top = (await client.lookup(ROOT, home)).st_ino
    handle, entry = await client.create(top, name)
    await client.unlink(top, name)
    with fails(errno.ENOENT):
        await client.lookup(top, name)
    await client.write(handle, b"without a name")
    assert await client.read(handle) == b"without a name"
    assert (await client.operations.getattr(entry.st_ino, client.caller)).st_nlink == 0
    await client.end()
    assert [node.number for node in client.operations.nodes.all()] == [ROOT]


async def test_attributes(client: Client, home: str) -> None:
    top = (await client.lookup(ROOT, home)).st_ino
    handle, entry = await client.create(top, "a", mode=0o666)
    assert stat.S_IMODE(entry.st_mode) == 0o644  # less the umask
    await client.write(handle, b"0123456789")
    changed = await client.setattr(entry.st_ino, handle, st_size=4)
    assert changed.st_size == 4
    changed = await client.setattr(entry.st_ino, st_size=6000)
    assert changed.st_size == 6000
    assert await client.read(handle) == b"0123" + bytes(5996)
    changed = await client.setattr(entry.st_ino, st_mode=stat.S_IFREG | 0o600, st_mtime_ns=10**18 + 1)
    assert (stat.S_IMODE(changed.st_mode), changed.st_mtime_ns) == (0o600, 10**18 + 1)
    with fails(errno.EFBIG):
        await client.setattr(entry.st_ino, st_size=2**63 - 1)
    with fails(errno.EINVAL):
        await client.setattr(top, st_size=0)
    assert (await client.operations.getattr(entry.st_ino, client.caller)).st_size == 6000


@pytest.mark.parametrize("room", [1, 2, 100])
async def test_directories_are_listed_whatever_fits_into_an_answer(client: Client, room: int) -> None:
    top = (await client.lookup(ROOT, "vm")).st_ino
    for number in range(7):
        handle, _ = await client.create(top, f"file {number}")
        await client.close(handle)
    assert sorted(await client.names(top, room)) == [".", "..", *(f"file {number}" for number in range(7))]
    assert sorted(await client.names(ROOT, room)) == [".", "..", "plain", "vm"]
    with fails(errno.ENOTDIR):
        await client.operations.opendir((await client.lookup(top, "file 1")).st_ino, client.caller)
    await client.end()
    assert [node.number for node in client.operations.nodes.all()] == [ROOT]


async def test_directories_come_and_go(client: Client) -> None:
    home = await client.mkdir(ROOT, "new")
    below = await client.mkdir(home, "below")
    await client.create(below, "a")
    with fails(errno.ENOTEMPTY):
        await client.operations.rmdir(ROOT, b"new", client.caller)
    with fails(errno.ENOTEMPTY):
        await client.operations.rmdir(home, b"below", client.caller)
    await client.unlink(below, "a")
    await client.operations.rmdir(home, b"below", client.caller)
    await client.operations.rmdir(ROOT, b"new", client.caller)
    with fails(errno.ENOENT):
        await client.lookup(ROOT, "new")
    await client.end()


async def test_special_files(client: Client) -> None:
    top = (await client.lookup(ROOT, "vm")).st_ino
    link = await client.operations.symlink(top, b"link", b"/nowhere", client.caller)
    assert await client.operations.readlink(link.st_ino, client.caller) == b"/nowhere"
    fifo = await client.operations.mknod(top, b"fifo", stat.S_IFIFO | 0o600, 0, client.caller)
    for inode in (link.st_ino, fifo.st_ino, top):
        with fails(errno.EINVAL):
            await client.open(inode)


async def test_seek_and_allocate(client: Client) -> None:
    top = (await client.lookup(ROOT, "vm")).st_ino
    handle, entry = await client.create(top, "a")
    await client.write(handle, b"x" * 4096, 1 << 20)
    assert await client.operations.lseek(handle, 0, os.SEEK_DATA) == 1 << 20
    assert await client.operations.lseek(handle, 1 << 20, os.SEEK_HOLE) == (1 << 20) + 4096
    with fails(errno.ENXIO):
        await client.operations.lseek(handle, 2 << 20, os.SEEK_DATA)
    await client.operations.fallocate(handle, 3, 1 << 20, 4096)
    assert await client.read(handle, 1 << 20) == bytes(4096)
    await client.operations.fallocate(handle, 0, 0, 3 << 20)
    assert (await client.operations.getattr(entry.st_ino, client.caller)).st_size == 3 << 20
    with fails(errno.EOPNOTSUPP):
        await client.operations.fallocate(handle, 0x20, 0, 4096)


async def test_a_read_only_mount_refuses_every_change(
    datastore: Path, keys: LocalKeys, client: Client
) -> None:
    top = (await client.lookup(ROOT, "vm")).st_ino
    handle, _ = await client.create(top, "a")
    await client.write(handle, b"kept")
    await client.end()
    before = times(datastore)
    with Volume.open(datastore, keys, read_only=True) as volume:
        reader = Client(operations_of(volume))
        top = (await reader.lookup(ROOT, "vm")).st_ino
        inode = (await reader.lookup(top, "a")).st_ino
        for attempt in (
            lambda: reader.create(top, "b"),
            lambda: reader.mkdir(top, "b"),
            lambda: reader.mkdir(ROOT, "b"),
            lambda: reader.unlink(top, "a"),
            lambda: reader.rename((top, "a"), (top, "b")),
            lambda: reader.setattr(inode, st_mode=0o600),
            lambda: reader.setattr(inode, st_size=0),
            lambda: reader.open(inode, os.O_RDWR),
            lambda: reader.open(inode, os.O_RDONLY | os.O_TRUNC),
            lambda: reader.operations.symlink(top, b"b", b"a", reader.caller),
            lambda: reader.operations.link(inode, top, b"b", reader.caller),
            lambda: reader.operations.mknod(top, b"b", stat.S_IFIFO, 0, reader.caller),
            lambda: reader.operations.rmdir(ROOT, b"vm", reader.caller),
        ):
            with fails(errno.EROFS):
                await attempt()
        assert await reader.read(await reader.open(inode, os.O_RDONLY)) == b"kept"
        await reader.end()
        reader.operations.close()
    assert times(datastore) == before


class Slow:
    """A key service that answers when `go` is set."""

    def __init__(self, keys: LocalKeys) -> None:
        self.go = threading.Event()
        self._keys = keys

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            assert threading.current_thread() is not threading.main_thread()
            assert self.go.wait(20)
            return getattr(self._keys, name)(*arguments, **named)

        return call


async def test_nobody_waits_for_those_who_wait_for_keys(
    client: Client, volume: Volume, keys: LocalKeys, datastore: Path
) -> None:
    top = (await client.lookup(ROOT, "vm")).st_ino
    inodes = []
    for number in range(THREADS + 5):
        handle, entry = await client.create(top, f"disk{number}")
        await client.write(handle, b"known")
        await client.close(handle)
        inodes.append(entry.st_ino)
    handle = await client.open(inodes.pop(), os.O_RDONLY)
    slow: Any = Slow(keys)
    volume.keys = slow
    async with trio.open_nursery() as nursery:
        for inode in inodes:
            nursery.start_soon(client.open, inode, os.O_RDONLY)
        os.utime(datastore / "vm" / ".ioflt")  # its standing has to be asked for again
        nursery.start_soon(client.lookup, top, "disk3")
        await trio.testing.wait_all_tasks_blocked(0.05)
        client.operations._nowait = False  # in a thread, as where no page is cached
        with trio.fail_after(10):
            assert await client.read(handle) == b"known"
        slow.go.set()
    await client.end()


@pytest.mark.parametrize("length", [3 * 4096, 5000])
async def test_an_open_reader_sees_what_another_mount_wrote(
    client: Client, datastore: Path, keys: LocalKeys, length: int
) -> None:
    top = (await client.lookup(ROOT, "vm")).st_ino
    writer, entry = await client.create(top, "disk")
    await client.write(writer, b"1" * 4096)
    await client.close(writer)
    with Volume.open(datastore, keys) as second:
        other = Client(operations_of(second))
        top = (await other.lookup(ROOT, "vm")).st_ino
        inode = (await other.lookup(top, "disk")).st_ino
        reader = await other.open(inode, os.O_RDONLY)
        assert len(await other.read(reader)) == 4096
        for times in (1, 2):
            writer = await client.open(entry.st_ino)
            await client.write(writer, bytes([times]) * length)
            await client.setattr(entry.st_ino, writer, st_size=length * times)
            await client.close(writer)
            if times == 1:  # the kernel asks for one or the other
                found = await other.operations.getattr(inode, other.caller)
                assert found.st_size == length
            assert await other.read(reader) == bytes([times]) * length + bytes(length * (times - 1))
        await other.end()
        other.operations.close()


async def test_a_reader_commits_no_vmx(client: Client, datastore: Path) -> None:
    top = (await client.lookup(ROOT, "vm")).st_ino
    writer, entry = await client.create(top, "a.vmx")
    await client.close(writer)
    before = (datastore / "vm" / "a.vmx").read_bytes()
    writer = await client.open(entry.st_ino)
    reader = await client.open(entry.st_ino, os.O_RDONLY)
    await client.write(writer, b'displayName = "half')
    await client.operations.fsync(reader, datasync=False)
    assert (datastore / "vm" / "a.vmx").read_bytes() == before
    await client.operations.fsync(writer, datasync=False)
    assert (datastore / "vm" / "a.vmx").read_bytes() != before


async def test_a_symlink_of_another_name_is_changed_itself(client: Client, datastore: Path) -> None:
    top = (await client.lookup(ROOT, "vm")).st_ino
    target, _ = await client.create(top, "target")
    await client.close(target)
    inode = client._count(await client.operations.symlink(top, b"one", b"target", client.caller)).st_ino
    client._count(await client.operations.link(inode, top, b"two", client.caller))
    other = client._count(await client.operations.symlink(top, b"three", b"target", client.caller)).st_ino
    (datastore / "vm" / "one").unlink()  # by another mount: where it was found last it is no more
    (datastore / "vm" / "three").rename(datastore / "vm" / "one")
    await client.setattr(inode, st_atime_ns=3 * 10**9 + 1, st_mtime_ns=5 * 10**9 + 7)
    await client.setattr(inode, st_gid=os.getegid())
    assert (datastore / "vm" / "two").lstat().st_mtime_ns == 5 * 10**9 + 7
    assert (datastore / "vm" / "two").lstat().st_atime_ns == 3 * 10**9 + 1
    assert (await client.operations.getattr(other, client.caller)).st_mtime_ns > 10**18
    assert (datastore / "vm" / "target").stat().st_mtime_ns > 10**18


@pytest.mark.allow_log("^vm/bad")
async def test_one_bad_file_harms_no_other(client: Client, datastore: Path) -> None:
    top = (await client.lookup(ROOT, "vm")).st_ino
    good, _ = await client.create(top, "good")
    await client.write(good, b"good")
    (datastore / "vm" / "bad.vmdk").write_bytes(b"no container" * 100)
    (datastore / "vm" / "bad.vmx").write_bytes(b'displayName = "put here in the clear"\n')
    for name in ("bad.vmdk", "bad.vmx"):
        inode = (await client.lookup(top, name)).st_ino
        with fails(errno.EUCLEAN):
            await client.open(inode)
    assert sorted(await client.names(top)) == [".", "..", "bad.vmdk", "bad.vmx", "good"]
    assert await client.read(good) == b"good"
    assert (datastore / "vm" / "bad.vmdk").read_bytes() == b"no container" * 100


async def test_nobody_waits_for_a_write_beside_the_filler(volume: Volume, client: Client) -> None:
    """The filler holds a thick file's lock while it syncs: a write waits for it in a thread."""
    lifecycle.encrypt(volume, "plain", thick=True)
    top = (await client.lookup(ROOT, "plain")).st_ino
    handle, entry = await client.create(top, "disk")
    other, _ = await client.create(top, "other")
    await client.write(other, b"other")
    await client.setattr(entry.st_ino, handle, st_size=1 << 20)
    file = client.operations.handles.files[handle].node.file
    assert isinstance(file, Container)
    assert file.unfilled
    file._lock.acquire()
    last_resort = threading.Timer(5, file._lock.release)  # a loop that waits would wait for ever
    last_resort.start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.write, handle, b"d" * 4096)
        await trio.testing.wait_all_tasks_blocked()
        assert await client.read(other) == b"other"
        assert file._lock.locked()
        last_resort.cancel()
        file._lock.release()
    assert await client.read(handle, 0, 4096) == b"d" * 4096
    await client.end()
