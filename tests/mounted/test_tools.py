"""Tools of other projects straight at the mount, and what a reader of the datastore sees of it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.place import HOMES, Place

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.interop("qemu-img", "qemu-io", "rsync", "tar", "cp", "diff"),
]

SIZE = 16 << 20

#: Name: (format, options). The VMDK subformats are all that qemu writes.
FORMATS = {
    "monolithicSparse": ("vmdk", ("subformat=monolithicSparse",)),
    "monolithicFlat": ("vmdk", ("subformat=monolithicFlat",)),
    "twoGbMaxExtentSparse": ("vmdk", ("subformat=twoGbMaxExtentSparse",)),
    "twoGbMaxExtentFlat": ("vmdk", ("subformat=twoGbMaxExtentFlat",)),
    "streamOptimized": ("vmdk", ("subformat=streamOptimized",)),
    "qcow2": ("qcow2", ()),
    "raw": ("raw", ()),
}

CANARY = b"the canary sings in clear text only"

LUKS_MAGIC = b"LUKS\xba\xbe"

KINDS = pytest.mark.parametrize("home", HOMES)


def run(*arguments: object, directory: Path | None = None) -> str:
    result = subprocess.run(
        [str(argument) for argument in arguments], capture_output=True, text=True, check=False, cwd=directory
    )
    assert result.returncode == 0, f"{arguments}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def options_of(name: str) -> tuple[str, ...]:
    kind, options = FORMATS[name]
    return ("-f", kind, *(word for option in options for word in ("-o", option)))


@pytest.fixture
def homes(shared: Place) -> Iterator[Place]:
    """Empty homes, mounted."""
    yield shared
    for home in HOMES:
        for path in (shared.mountpoint / home).iterdir():
            path.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A raw disk, half of it holes, with canaries."""
    path = tmp_path / "source.raw"
    with path.open("wb") as file:
        file.truncate(SIZE)
        for at in range(0, SIZE // 2, 1 << 20):
            file.seek(at + 12345)
            file.write(CANARY + os.urandom(100_000))
    return path


def assert_nothing_clear(directory: Path) -> None:
    """Every file of an encrypted home is a container or a sealed VMX, and no canary is in any."""
    for path in directory.rglob("*"):
        if not path.is_file() or path.is_symlink() or ".ioflt" in path.relative_to(directory).parts[0]:
            continue
        content = path.read_bytes()
        if path.suffix == ".vmx":
            assert content.startswith(b".encoding"), path
            assert b"encryption.keySafe" in content, path
        else:
            assert content.startswith(LUKS_MAGIC), path
        assert CANARY not in content, path


@KINDS
@pytest.mark.parametrize("name", FORMATS)
def test_qemu_img(homes: Place, disk: Path, home: str, name: str) -> None:
    kind, _ = FORMATS[name]
    directory = homes.mountpoint / home
    image = directory / f"disk.{kind}"
    if name != "streamOptimized":  # written once, from one end to the other
        run("qemu-img", "create", "-q", *options_of(name), image, "64M")
        run("qemu-io", "-f", kind, "-c", "write -P 0x5a 1M 3M", "-c", "read -P 0x5a 1M 3M", image)
        run("qemu-io", "-f", kind, "-c", "read -P 0 8M 1M", "-c", "read -P 0x5a 3M 1M", image)
    to = [word if word != "-f" else "-O" for word in options_of(name)]
    run("qemu-img", "convert", "-f", "raw", *to, disk, image)
    for remounted in (False, True):
        if remounted:
            homes.remount()
        run("qemu-img", "compare", "-f", "raw", "-F", kind, disk, image)
        info = json.loads(run("qemu-img", "info", "--output=json", image))
        assert info["virtual-size"] == SIZE
        if kind == "qcow2" or name in ("monolithicSparse", "streamOptimized"):
            run("qemu-img", "check", "-f", kind, image)
    run("qemu-img", "convert", "-f", kind, "-O", "raw", image, directory / "back.raw")
    run("cmp", disk, directory / "back.raw")
    if home != "clear":
        assert_nothing_clear(homes.datastore / home)
    assert homes.complaints() == []


@KINDS
def test_a_descriptor_written_by_hand(homes: Place, disk: Path, home: str) -> None:
    directory = homes.mountpoint / home
    run("cp", "--sparse=always", disk, directory / "vm-flat.vmdk")
    (directory / "vm.vmdk").write_text(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
        f'createType="vmfs"\nRW {SIZE // 512} VMFS "vm-flat.vmdk"\n'
        '#DDB\nddb.adapterType = "lsilogic"\n'
    )
    image = directory / "vm.vmdk"
    run("qemu-img", "compare", "-f", "raw", "-F", "vmdk", disk, image)
    run("qemu-io", "-f", "vmdk", "-c", "write -P 0x11 4M 64k", image)
    run("qemu-io", "-f", "vmdk", "-c", "read -P 0x11 4M 64k", image)
    assert "CID=fffffffe" not in image.read_text()  # qemu changes it at the first write
    if home != "clear":
        assert_nothing_clear(homes.datastore / home)


@KINDS
@pytest.mark.parametrize("aio", ["threads", "native"])
def test_qemu_io(homes: Place, home: str, aio: str) -> None:
    image = homes.mountpoint / home / "disk.raw"
    run("qemu-img", "create", "-q", "-f", "raw", image, "32M")
    cache = ("-t", "none") if aio == "native" else ()
    commands = []
    for number in range(40):
        offset, size = number * 700 * 1024, 512 * (1 + number * 7 % 190)
        commands += ["-c", f"aio_write -P {number + 1} {offset} {size}"]
    commands += ["-c", "aio_flush", "-c", "discard 16M 1M", "-c", "write -z 20M 64k"]
    for number in range(40):
        offset, size = number * 700 * 1024, 512 * (1 + number * 7 % 190)
        if not (16 << 20) - size < offset < 17 << 20 and not (20 << 20) - size < offset < (20 << 20) + 65536:
            commands += ["-c", f"read -P {number + 1} {offset} {size}"]
    run("qemu-io", "-f", "raw", "-i", aio, *cache, *commands, image)
    homes.remount()
    commands = [word for word in commands if not word.startswith(("aio_", "discard", "write"))]
    reads = [word for word in commands if word.startswith("read")]
    run("qemu-io", "-f", "raw", *(word for read in reads for word in ("-c", read)), image)


def test_the_map_of_a_huge_sparse_file_takes_no_time(homes: Place) -> None:
    image = homes.mountpoint / "thin" / "huge.raw"
    run("qemu-img", "create", "-q", "-f", "raw", image, "1T")
    run("qemu-io", "-f", "raw", "-c", "write -P 1 512G 64k", image)
    begin = time.monotonic()
    extents = json.loads(run("qemu-img", "map", "-f", "raw", "--output=json", image))
    assert time.monotonic() - begin < 2
    assert [(extent["start"], extent["length"]) for extent in extents if extent["data"]] == [
        (0, 4096),  # qemu-img writes the first sector
        (512 << 30, 65536),
    ]


@pytest.fixture
def vm(tmp_path: Path, disk: Path) -> Path:
    """A VM as some hypervisor left it, with all kinds of files."""
    home = tmp_path / "web01"
    (home / "logs").mkdir(parents=True)
    (home / "web01.vmx").write_bytes(
        b'.encoding = "UTF-8"\ndisplayName = "web01"\nannotation = "%s"\n' % CANARY
    )
    (home / "web01.vmdk").write_bytes(b"# Disk DescriptorFile\n#" + CANARY + b"\n")
    run("cp", "--sparse=always", disk, home / "web01-flat.vmdk")
    (home / "web01.nvram").write_bytes(CANARY * 100)
    (home / "logs" / "vmware.log").write_bytes(CANARY + b"\n")
    (home / "logs" / "last.log").symlink_to("vmware.log")
    os.link(home / "logs" / "vmware.log", home / "logs" / "linked.log")
    (home / "empty").touch()
    (home / "empty").chmod(0o600)
    os.utime(home / "web01.nvram", ns=(10**18, 10**18 + 123_456_789))
    return home


def assert_same(ours: Path, theirs: Path) -> None:
    """Contents, kinds, modes, times, links, and holes."""
    run("diff", "-r", "--no-dereference", ours, theirs)
    for path in theirs.rglob("*"):
        mine, its = (ours / path.relative_to(theirs)).lstat(), path.lstat()
        assert (mine.st_mode, mine.st_size, mine.st_nlink) == (its.st_mode, its.st_size, its.st_nlink), path
        assert mine.st_mtime_ns == its.st_mtime_ns or path.is_symlink(), path


IN_AND_OUT = {
    "cp": (("cp", "-a", "--sparse=always", "{from}", "{to}"),),
    "rsync": (("rsync", "-aSH", "{from}", "{to}/"),),
    "rsync again": (("rsync", "-aSH", "{from}", "{to}/"), ("rsync", "-aSH", "--checksum", "{from}", "{to}/")),
    "tar": (("sh", "-c", 'tar -C "{from}/.." --format=posix -cSf - web01 | tar -C "{to}" -xSf -'),),
    "mv": (("cp", "-a", "{from}", "{from}.copy"), ("mv", "{from}.copy", "{to}/web01")),
}


@pytest.mark.parametrize("encrypting", [True, False], ids=["encrypted", "clear"])
@pytest.mark.parametrize("how", IN_AND_OUT)
def test_homes_are_copied_in_and_out(
    vm: Path, tmp_path: Path, request: pytest.FixtureRequest, encrypting: bool, how: str
) -> None:
    place: Place = request.getfixturevalue("place" if encrypting else "clear_place")
    place.mount()
    back = tmp_path / "back"
    back.mkdir()
    stored = place.mountpoint / "web01"
    for source, target in ((vm, place.mountpoint), (stored, back)):
        for command in IN_AND_OUT[how]:
            run(*(word.replace("{from}", str(source)).replace("{to}", str(target)) for word in command))
        assert_same(target / "web01", vm)
    assert (back / "web01" / "web01-flat.vmdk").stat().st_blocks * 512 < SIZE * 3 // 4
    if encrypting:
        assert_nothing_clear(place.datastore / "web01")
        assert (stored / "web01-flat.vmdk").stat().st_blocks * 512 < SIZE * 3 // 4
    place.remount()
    assert_same(stored, vm)
    assert place.complaints() == []
    assert run(
        "rsync", "-aSHn", "--itemize-changes", "--exclude=/web01.copy", f"{vm}/", f"{stored}/"
    ).strip() in ("", ".d..t...... ./")
