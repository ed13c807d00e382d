"""Disks of a home read without a mount, in every form: their bytes, their areas, and what is refused."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioflt.backup.transports import OPENERS, open_disk
from ioflt.backup.vddk import number_of
from ioflt.cli.backup.run import MODES
from ioflt.datastore import tree
from ioflt.errors import (
    CorruptDataError,
    DeniedError,
    IofltError,
    MalformedError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from ioflt.types import Area, HomeState
from tests.unit.backup.disks import cowd, qcow2, text
from tests.unit.datastore.stored import Stored

K64 = 64 << 10
FLAT = random.Random(1).randbytes(4 * K64)


@pytest.fixture(params=[HomeState.ENCRYPTED, HomeState.CLEAR], ids=["encrypted", "clear"])
def stored(request: pytest.FixtureRequest, ioflt_home: Path, tmp_path: Path) -> Iterator[Stored]:
    made = Stored(tmp_path, request.param)
    yield made
    made.close()


@pytest.fixture
def encrypted(ioflt_home: Path, tmp_path: Path) -> Iterator[Stored]:
    made = Stored(tmp_path)
    yield made
    made.close()


@pytest.fixture
def clear(ioflt_home: Path, tmp_path: Path) -> Iterator[Stored]:
    made = Stored(tmp_path, HomeState.CLEAR)
    yield made
    made.close()


def content(stored: Stored, disk: str, mode: str = "file") -> bytes:
    with open_disk(stored.volume, "web", disk, mode) as opened:
        return bytes(opened.read(0, opened.capacity))


def areas(stored: Stored, disk: str) -> list[Area]:
    with open_disk(stored.volume, "web", disk) as opened:
        return list(opened.areas())


def put_sparse(stored: Stored, name: str, size: int, *pieces: tuple[int, bytes]) -> None:
    """A file with holes."""
    side = tree.HomeSide(stored.home)
    with tree.created(side, stored.home.fd, name) as file:
        file.truncate(size)
        for offset, data in pieces:
            file.write(offset, data)


def refusal(stored: Stored, disk: str) -> IofltError:
    with pytest.raises(IofltError) as caught:
        content(stored, disk)
    return caught.value


def reason(stored: Stored, disk: str) -> str:
    error = refusal(stored, disk)
    assert isinstance(error, CorruptDataError)
    assert error.file is not None
    assert error.file.startswith(f"{stored.top}/web/")
    return error.reason


# What is read


def test_extents_one_behind_the_other(stored: Stored) -> None:
    """Flat ones of one file and of another, zeros between them, an odd size."""
    lines = ('RW 8 FLAT "a" 16', "RW 300 ZERO", 'RW 5 FLAT "b" 0', 'RW 4 FLAT "a" 0')
    stored.put("disk.vmdk", text(*lines, kind="twoGbMaxExtentFlat"))
    stored.put("a", FLAT)
    stored.put("b", b"b" * 2560)
    expected = FLAT[8192:12288] + bytes(300 * 512) + b"b" * 2560 + FLAT[:2048]
    with open_disk(stored.volume, "web", "disk.vmdk") as disk:
        assert disk.capacity == len(expected)
        assert disk.read(0, disk.capacity) == expected
        assert disk.read(4000, 150_000) == expected[4000:154_000]
        assert disk.read(disk.capacity, 0) == b""
        assert list(disk.areas()) == [Area(0, 4096), Area(308 * 512, 9 * 512)]
        assert list(disk.areas(4000, 155_000)) == [
            Area(4000, 96),
            Area(308 * 512, 4000 + 155_000 - 308 * 512),
        ]
        for offset, length in ((-1, 1), (0, disk.capacity + 1), (disk.capacity, 1)):
            with pytest.raises(UsageError):
                disk.read(offset, length)


def test_holes_are_no_areas(encrypted: Stored) -> None:
    put_sparse(encrypted, "disk-flat.vmdk", 1 << 30, (256 << 20, b"x" * 4096), (700 << 20, b"y"))
    encrypted.put("disk.vmdk", text(f'RW {(1 << 30) // 512} VMFS "disk-flat.vmdk"'))
    found = areas(encrypted, "disk.vmdk")
    assert sum(area.length for area in found) <= 1 << 20
    assert [area.start for area in found] == [256 << 20, 700 << 20]
    with open_disk(encrypted.volume, "web", "disk.vmdk") as disk:
        assert list(disk.areas(300 << 20, 100 << 20)) == []
        assert disk.read((256 << 20) - 1, 4098) == b"\0" + b"x" * 4096 + b"\0"


def test_a_raw_file_ends_in_a_sector(stored: Stored) -> None:
    stored.put("disk.raw", FLAT[:1000])
    assert content(stored, "disk.raw") == FLAT[:1000] + bytes(24)
    assert [area.end for area in areas(stored, "disk.raw")] == [1000]


def test_below_directories(stored: Stored) -> None:
    """An image's backing file may lie in another directory of the home."""
    for name in ("one", "two"):
        os.mkdir(stored.path(name))
    stored.home.check_writable()
    for directory, name, data in (
        ("one", "disk.qcow2", qcow2(4 * K64, (0, b"a" * K64), (K64, b"b" * K64))),
        ("two", "disk.qcow2", qcow2(4 * K64, (K64, b"c" * K64), backing="../one/disk.qcow2")),
    ):
        fd = os.open(stored.path(directory), os.O_RDONLY)
        try:
            with tree.created(tree.HomeSide(stored.home), fd, f"{directory}/{name}") as file:
                file.write(0, data)
        finally:
            os.close(fd)
    expected = b"a" * K64 + b"c" * K64 + bytes(2 * K64)
    assert content(stored, "two/disk.qcow2") == content(stored, "two/../two/disk.qcow2") == expected
    assert areas(stored, "two/disk.qcow2") == [Area(0, 2 * K64)]


def test_zeros_of_an_increment_hide_what_is_below(stored: Stored) -> None:
    stored.put("a.qcow2", qcow2(4 * K64, (0, b"a" * 3 * K64)))
    stored.put("b.qcow2", qcow2(5 * K64, (K64, bytes(K64)), (4 * K64, b"b" * K64), backing="a.qcow2"))
    expected = b"a" * K64 + bytes(K64) + b"a" * K64 + bytes(K64) + b"b" * K64
    assert content(stored, "b.qcow2") == expected
    assert areas(stored, "b.qcow2") == [Area(0, K64), Area(2 * K64, K64), Area(4 * K64, K64)]


def test_a_raw_backing_file_is_raw_whatever_is_in_it(stored: Stored) -> None:
    """A guest wrote an image into its disk that names another file of the home."""
    stored.put("secret", b"s" * K64)
    forged = qcow2(K64, backing="secret", backing_format="raw")
    stored.put("a.raw", forged)
    stored.put("b.qcow2", qcow2(len(forged), backing="a.raw", backing_format="raw"))
    assert content(stored, "b.qcow2") == content(stored, "a.raw") == forged
    stored.put("disk.vmdk", text(f'RW {len(forged) // 512} VMFS "a.raw"'))
    assert content(stored, "disk.vmdk") == forged
    for name, size in (("c-flat.vmdk", 512), ("c.img", 512), ("c.vmdk", (1 << 20) + 512)):
        stored.put(name, text('RW 1 VMFS "secret"').ljust(size, b"\0"))
        assert b'"secret"' in content(stored, name)


def test_snapshots_of_vmware(stored: Stored) -> None:
    """A base, and a child that is shorter than it in nothing: what it has not comes from below."""
    stored.put("disk-flat.vmdk", FLAT)
    stored.put("disk.vmdk", text('RW 512 VMFS "disk-flat.vmdk"', cid=7))
    stored.put("disk-1.vmdk", text("RW 512 ZERO", cid=8, parent=("disk.vmdk", 7)))
    assert content(stored, "disk-1.vmdk") == bytes(len(FLAT))
    assert content(stored, "disk.vmdk") == FLAT


# What is refused


def test_no_such_disk(stored: Stored) -> None:
    for name in ("disk.vmdk", ".ioflt", ".ioflt.d/x", "no/disk.raw"):
        with pytest.raises(NotFoundError, match="no such disk"):
            open_disk(stored.volume, "web", name)
    for name in ("/etc/shadow", "../db/disk.raw", "a/../../db", ".."):
        with pytest.raises(UsageError):
            open_disk(stored.volume, "web", name)
    with pytest.raises(NotFoundError, match="no such VM home"):
        open_disk(stored.volume, "db", "disk.vmdk")
    with pytest.raises(UsageError, match="no transport mode"):
        open_disk(stored.volume, "web", "disk.vmdk", "ftp")


def test_symlinks_are_not_followed(stored: Stored, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(FLAT)
    stored.path("disk.raw").symlink_to(tmp_path / "x")
    stored.path("sub").symlink_to(tmp_path)
    for name in ("disk.raw", "sub/x"):
        with pytest.raises(NotFoundError):
            open_disk(stored.volume, "web", name)
    stored.put("disk.vmdk", text('RW 1 VMFS "disk.raw"'))
    assert reason(stored, "disk.vmdk") == "no such file"


@pytest.mark.parametrize(
    ("expected", "number", "files"),
    [
        ("missing parent", 16003, {"d.vmdk": text("RW 1 ZERO", parent=("p.vmdk", 2))}),
        (
            "missing parent",
            16003,
            {"d.vmdk": text("RW 1 ZERO").replace(b"parentCID=ffffffff", b"parentCID=2")},
        ),
        ("missing parent", 16003, {"d.vmdk": qcow2(K64, backing="p.qcow2")}),
        (
            "CID mismatch",
            16008,
            {"d.vmdk": text("RW 1 ZERO", parent=("p.vmdk", 2)), "p.vmdk": text("RW 1 ZERO", cid=3)},
        ),
        (
            "parents form a ring",
            16030,
            {
                "d.vmdk": text("RW 1 ZERO", cid=1, parent=("p.vmdk", 2)),
                "p.vmdk": text("RW 1 ZERO", cid=2, parent=("d.vmdk", 1)),
            },
        ),
        ("parents form a ring", 16030, {"d.vmdk": qcow2(K64, backing="x/../d.vmdk")}),
        ("backing name not confined", 16063, {"d.vmdk": qcow2(K64, backing="../db/d.qcow2")}),
        ("bad magic", 16063, {"d.vmdk": qcow2(K64, backing="p"), "p": b"x" * 512}),
        ("unknown disk format", 16013, {"d.vmdk": text("RW 1 ZERO", parent=("p", 2)), "p": b"x" * 512}),
        ("no disk of its own", 16013, {"d.vmdk": b"COWD" + bytes(2044)}),
        ("extent truncated", 16063, {"d.vmdk": text('RW 2 VMFS "a"'), "a": bytes(1023)}),
        ("no such file", 4, {"d.vmdk": text('RW 2 VMFS "a"')}),
        ("bad magic", 16063, {"d.vmdk": text('RW 2 SESPARSE "a"'), "a": b""}),
    ],
)
def test_what_is_no_disk(encrypted: Stored, expected: str, number: int, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        encrypted.put(name, data)
    error = refusal(encrypted, "d.vmdk")
    assert isinstance(error, CorruptDataError)
    assert error.reason == expected
    assert (error.file or "").startswith(f"{encrypted.top}/web/")
    assert (number_of(error) or ("", 0))[1] == number


def test_a_backing_file_of_unknown_format(encrypted: Stored) -> None:
    image = bytearray(qcow2(K64, backing="p.raw"))
    at = image.index(b"\xe2\x79\x2a\xca")
    image[at : at + 4] = b"\0\0\0\1"
    encrypted.put("d.qcow2", bytes(image))
    encrypted.put("p.raw", bytes(K64))
    assert reason(encrypted, "d.qcow2") == "backing format missing"


def test_a_chain_that_is_too_long(clear: Stored) -> None:
    clear.put("base.raw", FLAT)
    clear.path("0.vmdk").write_bytes(text('RW 512 VMFS "base.raw"', cid=0))
    for number in range(1, 257):
        image = text(
            f'RW 512 VMFSSPARSE "{number}"',
            kind="vmfsSparse",
            cid=number,
            parent=(f"{number - 1}.vmdk", number - 1),
        )
        clear.path(f"{number}.vmdk").write_bytes(image)
        clear.path(f"{number}").write_bytes(cowd(len(FLAT), {}))
    assert content(clear, "255.vmdk") == FLAT
    assert reason(clear, "256.vmdk") == "chain too long"


def test_an_extent_that_becomes_shorter(clear: Stored) -> None:
    path = clear.put("a.raw", FLAT)
    with open_disk(clear.volume, "web", "a.raw") as disk:
        os.truncate(path, 8192)
        with pytest.raises(MalformedError, match="truncated") as caught:
            disk.read(0, len(FLAT))
    assert caught.value.file == str(path)


# SAN


def test_san_reads_what_is_clear(clear: Stored) -> None:
    clear.put("a.raw", FLAT)
    assert content(clear, "a.raw", "san") == FLAT


def test_san_is_refused_for_an_encrypted_vm(encrypted: Stored) -> None:
    encrypted.put("a.raw", FLAT)
    with pytest.raises(DeniedError, match="file, nbd, nbdssl or hotadd") as caught:
        open_disk(encrypted.volume, "web", "a.raw", "san")
    assert number_of(caught.value) == ("VIX_E_DISK_NEEDKEY", 16014)


def test_a_closed_disk_closes_twice_and_reads_nothing(stored: Stored) -> None:
    stored.put("a.raw", FLAT)
    disk = open_disk(stored.volume, "web", "a.raw")
    before = disk.areas()
    disk.close()
    disk.close()
    for read in (lambda: disk.read(0, 512), lambda: next(disk.areas()), lambda: next(before)):
        with pytest.raises(UsageError, match="closed"):
            read()


def test_unknown_formats_say_which(stored: Stored) -> None:
    stored.put("d.vmdk", text("RW 1 ZERO").replace(b"version=1", b"version=4"))
    with pytest.raises(UnsupportedError, match="unknown version"):
        open_disk(stored.volume, "web", "d.vmdk")


def test_the_command_offers_each_mode() -> None:
    assert set(MODES) == set(OPENERS)
