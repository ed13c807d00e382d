"""What is particular to a datastore: hidden files, VMX files, moves between homes, numbers that stay."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ioflt import syscalls
from tests.mounted.place import HOMES, Place
from tests.mounted.test_posix import fails, opened

pytestmark = [pytest.mark.fuse, pytest.mark.root]

ENCRYPTED = pytest.mark.parametrize("home", ["thin", "thick"])


@pytest.mark.parametrize("home", ["", *HOMES])
@pytest.mark.parametrize("name", [".ioflt", ".ioflt.d"])
def test_our_own_files_are_hidden(shared: Place, home: str, name: str) -> None:
    directory = shared.mountpoint / home
    hidden = directory / name
    assert name not in os.listdir(directory)
    for look in (hidden.stat, lambda: os.open(hidden, os.O_RDONLY), hidden.unlink, hidden.rmdir):
        with fails(errno.ENOENT):
            look()
    file = directory / "file"
    file.write_bytes(b"x")
    make: list[Callable[[], object]] = [
        lambda: os.open(hidden, os.O_CREAT | os.O_RDWR),
        hidden.mkdir,
        lambda: hidden.symlink_to("x"),
        lambda: os.mkfifo(hidden),
        lambda: os.link(file, hidden),
        lambda: file.rename(hidden),
    ]
    for action in make:
        with fails(errno.EPERM):
            action()
    assert file.read_bytes() == b"x"
    file.unlink()


def test_deeper_down_these_names_are_anybodys(shared: Place) -> None:
    path = shared.mountpoint / "thin" / "sub" / ".ioflt"
    path.parent.mkdir()
    path.write_bytes(b"x")
    assert path.read_bytes() == b"x"
    shutil.rmtree(path.parent)


def test_homes_are_made_renamed_and_removed(shared: Place) -> None:
    first, second = shared.mountpoint / "first", shared.mountpoint / "second"
    first.mkdir()
    (first / "file").write_bytes(b"content")
    first.rename(second)
    assert (second / "file").read_bytes() == b"content"
    with fails(errno.ENOTEMPTY):
        second.rmdir()
    with fails(errno.EXDEV):
        second.rename(shared.mountpoint / "thin" / "inside")
    (second / "sub").mkdir()
    with fails(errno.EXDEV):
        (second / "sub").rename(shared.mountpoint / "sub")
    (second / "file").unlink()
    (second / "sub").rmdir()
    second.rmdir()
    assert not (shared.datastore / "second").exists()


def test_an_empty_home_gives_way_to_another(shared: Place) -> None:
    moved, empty, full = (shared.mountpoint / name for name in ("moved", "empty", "full"))
    for home in (moved, empty, full):
        home.mkdir()
    (full / "file").write_bytes(b"content")
    with pytest.raises(OSError, match="not empty"):
        moved.rename(full)
    (moved / "file").write_bytes(b"moved")
    moved.rename(empty)
    assert not moved.exists()
    assert (empty / "file").read_bytes() == b"moved"
    assert (full / "file").read_bytes() == b"content"
    for home in (empty, full):
        (home / "file").unlink()
        home.rmdir()


@pytest.mark.parametrize(
    ("old", "new"), [("thin", "thick"), ("thin", "clear"), ("clear", "thin"), ("thin", "")]
)
def test_between_homes_tools_have_to_copy(shared: Place, old: str, new: str) -> None:
    source, target = shared.mountpoint / old / "mover", shared.mountpoint / new / "moved"
    source.write_bytes(b"content" * 1000)
    with fails(errno.EXDEV):
        source.rename(target)
    with fails(errno.EXDEV):
        os.link(source, target)
    subprocess.run(["mv", source, target], check=True)
    assert target.read_bytes() == b"content" * 1000
    target.unlink()


# VMX files

TEXT = b'.encoding = "UTF-8"\ndisplayName = "web01"\nmemsize = "512"\n'


def stored(shared: Place, path: Path) -> bytes:
    return (shared.datastore / path.relative_to(shared.mountpoint)).read_bytes()


@ENCRYPTED
def test_renames_to_and_from_vmx_convert(shared: Place, home: str) -> None:
    plain, vmx = shared.mountpoint / home / "vm.tmp", shared.mountpoint / home / "vm.vmx"
    plain.write_bytes(TEXT)
    plain.chmod(0o640)
    os.chown(plain, 1234, 4321)
    os.utime(plain, ns=(10**18, 10**18 + 1))
    before = plain.stat()
    with opened(plain) as fd:
        plain.rename(vmx)
        assert stored(shared, vmx).startswith(b".encoding")
        assert os.pread(fd, 1000, 0) == TEXT
        after = vmx.stat()
        for field in ("st_ino", "st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_size"):
            assert getattr(after, field) == getattr(before, field), field
        os.pwrite(fd, b'guestOS = "other"\n', len(TEXT))
    assert vmx.read_bytes() == TEXT + b'guestOS = "other"\n'
    assert not plain.exists()
    with opened(vmx) as fd:
        vmx.rename(plain)
        assert stored(shared, plain).startswith(b"LUKS")
        os.pwrite(fd, b"#", 0)
    assert plain.read_bytes() == b"#" + TEXT[1:] + b'guestOS = "other"\n'
    assert plain.stat().st_ino == before.st_ino
    plain.unlink()


@ENCRYPTED
def test_an_editor_replaces_a_vmx_that_is_open(shared: Place, home: str) -> None:
    vmx, new = shared.mountpoint / home / "vm.vmx", shared.mountpoint / home / "vm.vmx~new"
    vmx.write_bytes(TEXT)
    new.write_bytes(TEXT + b"# edited\n")
    with fails(errno.EEXIST):
        syscalls.renameat2(-100, str(new), -100, str(vmx), syscalls.RENAME_NOREPLACE)
    with opened(vmx) as fd:
        new.rename(vmx)
        assert os.pread(fd, 1000, 0) == TEXT
        os.pwrite(fd, b"lost", 0)
        os.fsync(fd)
        assert os.fstat(fd).st_nlink == 0
    assert vmx.read_bytes() == TEXT + b"# edited\n"
    other = vmx.with_name("other.vmx")
    vmx.rename(other)
    assert other.read_bytes() == TEXT + b"# edited\n"
    other.unlink()


@ENCRYPTED
def test_a_vmx_has_one_name(shared: Place, home: str) -> None:
    directory = shared.mountpoint / home
    vmx = directory / "vm.vmx"
    vmx.write_bytes(TEXT)
    (directory / "file").write_bytes(b"x")
    with fails(errno.EPERM):
        os.link(vmx, directory / "link")
    with fails(errno.EPERM):
        os.link(directory / "file", directory / "link.vmx")
    os.link(directory / "file", directory / "second")
    with fails(errno.EXDEV):  # the other name would stay behind, another file
        (directory / "second").rename(directory / "second.vmx")
    for name in ("vm.vmx", "file", "second"):
        (directory / name).unlink()


@ENCRYPTED
def test_a_vmx_is_not_exchanged_for_what_is_none(shared: Place, home: str) -> None:
    vmx, file, directory = (shared.mountpoint / home / name for name in ("vm.vmx", "file", "directory"))
    vmx.write_bytes(TEXT)
    file.write_bytes(b"x")
    directory.mkdir()
    for one, other in ((vmx, file), (file, vmx), (vmx, directory), (directory, vmx)):
        with fails(errno.EINVAL):
            syscalls.renameat2(-100, str(one), -100, str(other), syscalls.RENAME_EXCHANGE)
    assert (vmx.read_bytes(), file.read_bytes()) == (TEXT, b"x")
    vmx.unlink()
    file.unlink()
    directory.rmdir()


@ENCRYPTED
def test_a_vmx_is_small(shared: Place, home: str) -> None:
    vmx, large = shared.mountpoint / home / "vm.vmx", shared.mountpoint / home / "large"
    vmx.write_bytes(b"#" * (1 << 20))
    assert vmx.read_bytes() == b"#" * (1 << 20)
    with opened(vmx, os.O_RDWR | os.O_APPEND) as fd, fails(errno.EFBIG):
        os.write(fd, b"#")
    with fails(errno.EFBIG):
        os.truncate(vmx, (1 << 20) + 1)
    large.write_bytes(b"#" * ((1 << 20) + 1))
    with fails(errno.EFBIG):
        large.rename(vmx)
    assert vmx.stat().st_size == 1 << 20
    assert large.stat().st_size == (1 << 20) + 1
    vmx.unlink()
    large.unlink()


@ENCRYPTED
def test_handles_of_a_vmx_share_its_buffer(shared: Place, home: str) -> None:
    vmx = shared.mountpoint / home / "vm.vmx"
    with opened(vmx, os.O_CREAT | os.O_RDWR) as first, opened(vmx) as second:
        os.write(first, TEXT)
        assert os.pread(second, 1000, 0) == TEXT
        os.ftruncate(second, 5)
        assert os.fstat(first).st_size == 5
        os.fsync(second)
        assert len(stored(shared, vmx)) > 500
        number = os.fstat(first).st_ino
        os.pwrite(first, b"x", 9)
        assert vmx.stat().st_ino == number
    assert vmx.read_bytes() == TEXT[:5] + bytes(4) + b"x"
    before = vmx.stat()
    with opened(vmx, os.O_RDONLY) as fd:
        assert os.pread(fd, 3, 0) == TEXT[:3]
    assert vmx.stat().st_ctime_ns == before.st_ctime_ns
    vmx.unlink()


# What stays over remounts


def test_numbers_and_times_are_stable_over_remounts(homes: Place) -> None:
    names = []
    for home in ("", *HOMES):
        for name in ("disk.vmdk", "vm.vmx", "empty", "sub/inner", "sub/link", "fifo", "hard"):
            path = homes.mountpoint / home / name
            if not home and "/" in name:
                continue
            path.parent.mkdir(exist_ok=True)
            if name == "sub/link":
                path.symlink_to("inner")
            elif name == "fifo":
                os.mkfifo(path)
            elif name == "hard":
                os.link(path.with_name("disk.vmdk"), path)
            else:
                path.write_bytes(b"" if name == "empty" else TEXT * 777)
            names.append(path)
        names.append(homes.mountpoint / home)

    def facts() -> dict[str, tuple[int, ...]]:
        return {
            str(path): (info.st_ino, info.st_ctime_ns, info.st_mtime_ns, info.st_size, info.st_nlink)
            for path in names
            for info in (path.lstat(),)
        }

    before = facts()
    assert len({fact[0] for fact in before.values()}) == len(names) - len(("", *HOMES))  # the hard links
    for _ in range(2):
        homes.remount()
        assert facts() == before
        for path in names:
            if path.is_file():
                assert path.read_bytes() in (b"", TEXT * 777)
                with opened(path):
                    pass
        assert facts() == before
    homes.kill()
    homes.mount("--read-only")
    assert facts() == before


# fsync


@pytest.mark.interop("strace")
def test_syncs_reach_the_datastore(homes: Place, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    paths = {
        home: [homes.mountpoint / home / name for name in ("disk", "vm.vmx")] for home in ("thin", "clear")
    }
    fds = [os.open(path, os.O_CREAT | os.O_RDWR) for path in (*paths["thin"], *paths["clear"])]
    tracer = subprocess.Popen(
        ["strace", "-f", "-y", "-e", "trace=fsync,fdatasync", "-o", trace, "-p", str(homes.pid)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr is not None
    assert "attached" in tracer.stderr.readline()

    def ended() -> int:
        """How many syncs ended well so far; the line of one may be in two parts, others' between them."""
        return len(re.findall(r"f(?:data)?sync(?:\(| resumed>).* = 0$", trace.read_text(), re.MULTILINE))

    try:
        counts = []
        for fd in fds:
            for sync in (os.fsync, os.fdatasync):
                os.pwrite(fd, TEXT, 0)
                before = ended()
                sync(fd)
                counts.append(ended() - before)
        for home in ("thin", "clear", ""):
            before = ended()
            with opened(homes.mountpoint / home, os.O_RDONLY) as directory:
                os.fsync(directory)
            counts.append(ended() - before)
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate()
        for fd in fds:
            os.close(fd)
    assert all(counts), counts
