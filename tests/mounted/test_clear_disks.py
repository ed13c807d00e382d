"""Disks of an encrypted VM that are clear, through mounts: their names, what is new, what lies there."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioflt import syscalls
from tests.mounted.place import Place
from tests.mounted.second import second_mount
from tests.mounted.test_posix import fails

pytestmark = [pytest.mark.fuse, pytest.mark.root]

CANARY = b"the canary sings" * 256
CLEAR = ("c-flat.vmdk", "c.vmdk")
ENCRYPTED = ("e-flat.vmdk", "e.vmdk", "vm.nvram")
NAMES = sorted((*CLEAR, *ENCRYPTED))


def descriptor(name: str) -> bytes:
    head = '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
    return f'{head}RW 8 FLAT "{name}" 0\n'.encode()


@pytest.fixture
def mixed(place: Place) -> Place:
    """Mounted, with the encrypted home `vm`, one of whose two disks is clear."""
    home = place.mount() / "vm"
    home.mkdir()
    for name in NAMES:
        disk = name.removesuffix(".vmdk") + "-flat.vmdk"
        data = descriptor(disk) if name in ("c.vmdk", "e.vmdk") else name.encode().ljust(4096, b".")
        (home / name).write_bytes(data)
    place.umount()
    place.ioflt("vm", "decrypt", place.datastore / "vm", "--disk", "c.vmdk")
    place.mount()
    return place


@pytest.fixture
def home(mixed: Place) -> Path:
    return mixed.mountpoint / "vm"


@pytest.fixture
def stored(mixed: Place) -> Path:
    return mixed.datastore / "vm"


def clear(stored: Path) -> list[str]:
    """Files that are no containers."""
    found = (path for path in stored.rglob("*") if path.is_file() and not path.name.startswith(".ioflt"))
    return sorted(str(path.relative_to(stored)) for path in found if path.read_bytes()[:4] != b"LUKS")


def told(mixed: Place) -> list[str]:
    """Files that are clear by the record. That their disks lack parts is no matter here."""
    checked = mixed.ioflt("check", mixed.datastore, check=False).stdout.splitlines()
    found = [line.split()[0] for line in checked if line.split()[1] == "clear"]
    return [path.removeprefix("vm/") for path in found]


def sound(mixed: Place, *names: str) -> None:
    """These files are clear, by the record as well, and no other."""
    assert clear(mixed.datastore / "vm") == told(mixed) == sorted(names)
    assert mixed.complaints() == []


def test_it_reads_and_writes_as_it_lies_there(mixed: Place, home: Path, stored: Path) -> None:
    assert (home / "c-flat.vmdk").read_bytes() == (stored / "c-flat.vmdk").read_bytes()
    assert (home / "c-flat.vmdk").stat().st_ino == (stored / "c-flat.vmdk").stat().st_ino
    with (home / "c-flat.vmdk").open("r+b") as file:
        file.write(CANARY)
    with (home / "e-flat.vmdk").open("r+b") as file:
        file.write(CANARY)
    assert (stored / "c-flat.vmdk").read_bytes().startswith(CANARY)
    assert CANARY[:16] not in (stored / "e-flat.vmdk").read_bytes()
    sound(mixed, *CLEAR)


def test_what_is_new_is_encrypted(mixed: Place, home: Path, stored: Path) -> None:
    for name in CLEAR:
        (home / name).unlink()
    sound(mixed)
    for name in (*CLEAR, "new"):
        (home / name).write_bytes(CANARY)
    sound(mixed)
    assert (home / "c.vmdk").read_bytes() == CANARY


def test_removed_behind_the_mounts_back(mixed: Place, home: Path, stored: Path) -> None:
    (stored / "c-flat.vmdk").unlink()
    (home / "c-flat.vmdk").write_bytes(CANARY)
    assert (home / "c-flat.vmdk").read_bytes() == CANARY
    sound(mixed, "c.vmdk")


@pytest.mark.parametrize(
    ("old", "new", "left"),
    [
        ("c-flat.vmdk", "x", ("c.vmdk", "x")),
        ("c-flat.vmdk", "c.vmdk", ("c.vmdk",)),
        ("c-flat.vmdk", "e-flat.vmdk", ("c.vmdk", "e-flat.vmdk")),
        ("e-flat.vmdk", "c-flat.vmdk", ("c.vmdk",)),
        ("c-flat.vmdk", "sub/c-flat.vmdk", ("c.vmdk", "sub/c-flat.vmdk")),
    ],
)
def test_renames(mixed: Place, home: Path, stored: Path, old: str, new: str, left: tuple[str, ...]) -> None:
    (home / "sub").mkdir()
    content = (home / old).read_bytes()
    with (home / old).open("r+b") as held:
        os.rename(home / old, home / new)
        held.write(CANARY)
        held.flush()
        assert (home / new).read_bytes() == CANARY.ljust(len(content), content[-1:])[
            : max(len(content), 4096)
        ]
    assert not (home / old).exists()
    assert (CANARY in (stored / new).read_bytes()) == (new in left)
    sound(mixed, *left)
    mixed.remount()
    assert (home / new).read_bytes().startswith(CANARY)


def test_a_directory_with_a_clear_file(mixed: Place, home: Path) -> None:
    (home / "sub").mkdir()
    for name in CLEAR:
        (home / name).rename(home / "sub" / name)
    (home / "sub").rename(home / "other")
    assert (home / "other" / "c.vmdk").read_bytes() == descriptor("c-flat.vmdk")
    sound(mixed, *(f"other/{name}" for name in CLEAR))
    (home / "other" / "c.vmdk").unlink()
    sound(mixed, "other/c-flat.vmdk")


def test_what_is_refused(mixed: Place, home: Path, place: Place) -> None:
    (mixed.mountpoint / "second").mkdir()
    first = home / "c-flat.vmdk"

    def exchange(new: str) -> None:
        fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
        try:
            syscalls.renameat2(fd, "c-flat.vmdk", fd, new, syscalls.RENAME_EXCHANGE)
        finally:
            os.close(fd)

    with fails(errno.EXDEV):
        first.rename(mixed.mountpoint / "second" / "x")
    with fails(errno.EXDEV):
        first.rename(home / "x.vmx")
    with fails(errno.EPERM):
        os.link(first, home / "linked")
    with fails(errno.EINVAL):
        exchange("e-flat.vmdk")
    exchange("c.vmdk")
    assert first.read_bytes() == descriptor("c-flat.vmdk")
    sound(mixed, *CLEAR)


def test_tools_that_replace_files(mixed: Place, home: Path) -> None:
    """They make a new file, which is encrypted, and rename it over the clear one."""
    subprocess.run(["sed", "-i", "s/CID=1/CID=2/", home / "c.vmdk"], check=True)
    assert b"CID=2" in (home / "c.vmdk").read_bytes()
    sound(mixed, "c-flat.vmdk")
    subprocess.run(["mv", home / "c-flat.vmdk", mixed.mountpoint / "c-flat.vmdk"], check=True)
    sound(mixed)


def test_an_open_vm_is_not_converted(mixed: Place, home: Path, stored: Path) -> None:
    with (home / "vm.nvram").open("rb"):
        for what, disk in (("encrypt", "c.vmdk"), ("decrypt", "e.vmdk")):
            result = mixed.ioflt("vm", what, stored, "--disk", disk, check=False)
            assert result.returncode != 0
            assert "in use: a file of it is open in a mount" in result.stderr
    mixed.ioflt("vm", "encrypt", stored, "--disk", "c.vmdk")
    assert (home / "c.vmdk").read_bytes() == descriptor("c-flat.vmdk")
    sound(mixed)


def test_keys_change_meanwhile(mixed: Place, home: Path, stored: Path) -> None:
    with (home / "c-flat.vmdk").open("r+b") as file:
        mixed.ioflt("vm", "recrypt", stored)
        file.write(CANARY)
    sound(mixed, *CLEAR)
    assert (home / "e.vmdk").read_bytes() == descriptor("e-flat.vmdk")


@pytest.mark.interop("qemu-img")
def test_qemu_reads_a_mixed_vm(mixed: Place, home: Path, tmp_path: Path) -> None:
    for name in ("c", "e"):
        raw = tmp_path / name
        raw.write_bytes((home / f"{name}-flat.vmdk").read_bytes())
        compare = ["qemu-img", "compare", "-f", "raw", "-F", "vmdk", raw, home / f"{name}.vmdk"]
        subprocess.run(compare, check=True, capture_output=True)


# Two mounts


@pytest.fixture
def two(mixed: Place) -> Iterator[tuple[Path, Path]]:
    """The home in two mounts."""
    with second_mount(mixed) as top:
        yield mixed.mountpoint / "vm", top / "vm"


def test_two_mounts_go_by_one_record(mixed: Place, two: tuple[Path, Path]) -> None:
    """Names go round and round between the two; whoever reads finds each file's own content."""
    chance = random.Random(4)
    contents = {name: (two[0] / name).read_bytes() for name in NAMES}
    is_clear = {name: name in CLEAR for name in NAMES}
    free = ["x", "y"]
    for _ in range(60):
        old = chance.choice(sorted(contents))
        new = chance.choice([*free, *sorted(contents)])
        if new != old:
            top = chance.choice(two)
            (top / old).rename(top / new)
            contents[new], is_clear[new] = contents.pop(old), is_clear.pop(old)
            free = [name for name in ("x", "y", *NAMES) if name not in contents][:3]
        if free:
            name = free.pop()
            chance.choice(two).joinpath(name).write_bytes(name.encode())
            contents[name], is_clear[name] = name.encode(), False
        for top in two:
            assert {name: (top / name).read_bytes() for name in contents} == contents
    sound(mixed, *(name for name in contents if is_clear[name]))


def test_two_mounts_at_once(mixed: Place, two: tuple[Path, Path]) -> None:
    """Both rename, make and remove at the same time: no file ever reads as another's ciphertext."""
    wrong: list[object] = []
    good = {(two[0] / name).read_bytes() for name in NAMES} | {b"new", b""}

    def work(top: Path, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(80):
            old, new = chance.sample(["x", "y", *NAMES], 2)
            try:
                match chance.randrange(4):
                    case 0:
                        (top / new).write_bytes(b"new")
                    case 1:
                        (top / old).rename(top / new)
                    case 2:
                        (top / f"t{seed}").write_bytes(b"new")
                        (top / f"t{seed}").rename(top / new)
                    case _:
                        data = (top / old).read_bytes()
                        if data not in good:
                            wrong.append((old, data[:40]))
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ESTALE, errno.EEXIST):
                    wrong.append((old, new, error))

    threads = [threading.Thread(target=work, args=(top, seed)) for seed, top in enumerate(two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert clear(mixed.datastore / "vm") == told(mixed)
