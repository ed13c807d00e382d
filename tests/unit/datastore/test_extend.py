"""Flat disks made longer: what they hold then, in which order it happens, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioflt.crypto.secret import Secret
from ioflt.datastore import extend, lifecycle, recovery
from ioflt.datastore.check import run
from ioflt.datastore.disks import Disk
from ioflt.datastore.tree import HomeSide
from ioflt.datastore.volume import Volume
from ioflt.errors import (
    BusyError,
    MalformedError,
    ReadOnlyError,
    StorageError,
    UnsupportedError,
    UsageError,
)
from ioflt.format.vmdk import descriptor
from ioflt.types import HomeState
from tests.unit.datastore.stored import VMX, Stored, snapshot

DESCRIPTOR = b"""# Disk DescriptorFile\r
version=1\r
CID=0000abcd\r
parentCID=ffffffff\r
createType="vmfs"\r
\r
# Extent description\r
RW 2048 VMFS "disk-flat.vmdk"\r
ddb.geometry.cylinders = "2"\r
ddb.geometry.heads = "16"\r
ddb.geometry.sectors = "63"\r
ddb.comment = "kept"\r
"""
DISK = os.urandom(1 << 20)


@pytest.fixture(params=[HomeState.ENCRYPTED, HomeState.CLEAR], ids=["encrypted", "clear"])
def stored(request: pytest.FixtureRequest, ioflt_home: Path, tmp_path: Path) -> Iterator[Stored]:
    """A home `web` with one flat disk of 1 MiB."""
    made = Stored(tmp_path / "a", request.param)
    made.put("web.vmx", VMX)
    made.put("disk.vmdk", DESCRIPTOR)
    made.put("disk-flat.vmdk", DISK)
    yield made
    made.close()


def grow(stored: Stored, size: int, *, by: bool = False) -> int:
    return extend.extend_disk(stored.volume, "web", "disk.vmdk", size, by=by)


def disk(stored: Stored) -> tuple[int, bytes]:
    """Its capacity and content, as an export sees it."""
    with Disk(HomeSide(stored.home), stored.home.fd, "disk.vmdk") as found:
        content = bytearray(found.capacity)
        for offset, data in found.pieces():
            content[offset : offset + len(data)] = data
        return found.capacity, bytes(content)


def text(stored: Stored) -> bytes:
    with extend._opened(stored.home, "disk.vmdk", os.O_RDONLY) as file:
        return bytes(file.read(0, 1 << 20))


def test_the_disk_is_longer_and_reads_as_zeros_there(stored: Stored) -> None:
    before = stored.path("disk.vmdk").stat()
    assert grow(stored, 100 << 20) == 100 << 20
    assert disk(stored) == (100 << 20, DISK.ljust(100 << 20, b"\0"))
    assert text(stored) == DESCRIPTOR.replace(b"RW 2048 ", b"RW 204800 ").replace(b'"2"', b'"203"')
    assert stored.path("disk-flat.vmdk").stat().st_blocks * 512 < 4 << 20
    after = stored.path("disk.vmdk").stat()
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
    assert grow(stored, 512, by=True) == (100 << 20) + 512
    assert disk(stored)[0] == (100 << 20) + 512
    assert run(stored.volume.path, stored.keys).sound


def test_recovery_slots_and_numbers_stay(ioflt_home: Path, tmp_path: Path) -> None:
    stored = Stored(tmp_path / "a")
    stored.put("disk-flat.vmdk", DISK)
    path = stored.put("disk.vmdk", DESCRIPTOR)
    with path.open("r+b") as file:
        recovery.add_slot(file.fileno(), stored.keys, Secret(b"passphrase"))
    before = stored.header("disk.vmdk")
    grow(stored, 2 << 20)
    after = stored.header("disk.vmdk")
    assert (after.uuid, after.tokens) == (before.uuid, before.tokens)
    assert stored.path("disk.vmdk").read_bytes()[32768:917504] == path.read_bytes()[32768:917504]
    with stored.path("disk.vmdk").open("r+b") as file:
        assert recovery.add_slot(file.fileno(), stored.keys, Secret(b"passphrase")) == 0
    stored.close()


def test_thick_disks_are_filled(ioflt_home: Path, tmp_path: Path) -> None:
    stored = Stored(tmp_path / "a", HomeState.CLEAR)
    stored.put("disk.vmdk", DESCRIPTOR)
    stored.put("disk-flat.vmdk", DISK)
    lifecycle.encrypt(stored.volume, "web", thick=True)
    grow(stored, 4 << 20)
    assert disk(stored) == (4 << 20, DISK.ljust(4 << 20, b"\0"))
    body = stored.path("disk-flat.vmdk").read_bytes()[1 << 20 :]
    assert len(body) == 4 << 20
    assert all(any(body[at : at + 4096]) for at in range(0, len(body), 4096))
    stored.close()


def test_an_interruption_leaves_a_long_extent_and_is_gone_on_with(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_arguments: object) -> None:
        raise OSError(5, "the power is cut")

    monkeypatch.setattr(extend, "_replace", cut)
    with pytest.raises(StorageError):
        grow(stored, 3 << 20)
    monkeypatch.undo()
    assert disk(stored) == (1 << 20, DISK)
    with extend._opened(stored.home, "disk-flat.vmdk", os.O_RDWR) as file:
        assert file.length == 3 << 20
        file.write(2 << 20, b"not of this disk")
        file.sync(data_only=False)
    assert run(stored.volume.path, stored.keys).sound
    grow(stored, 4 << 20)
    assert disk(stored) == (4 << 20, DISK.ljust(4 << 20, b"\0"))


def refused(stored: Stored, kind: type[Exception], message: str, size: int = 2 << 20) -> None:
    before = snapshot(stored.top)
    with pytest.raises(kind, match=message):
        grow(stored, size)
    assert snapshot(stored.top) == before


def test_refused(stored: Stored) -> None:
    refused(stored, UsageError, "has 1048576 bytes: a disk only becomes longer", 1 << 20)
    refused(stored, UsageError, "only becomes longer", 512)
    refused(stored, UsageError, "whole sectors", (2 << 20) + 1)
    refused(stored, UsageError, "a disk has at most", 1 << 63)

    stored.home.enter()
    refused(stored, BusyError, "in use")
    stored.home.leave()

    with (
        Volume.open(stored.top, stored.keys, read_only=True) as read_only,
        pytest.raises(ReadOnlyError),
    ):
        extend.extend_disk(read_only, "web", "disk.vmdk", 2 << 20)

    child = DESCRIPTOR.replace(b"ffffffff", b"0000abcd").replace(
        b"\r\n\r\n", b'\r\nparentFileNameHint="disk.vmdk"\r\n\r\n'
    )
    path = stored.put("disk-000001.vmdk", child.replace(b"disk-flat", b"disk-000001-delta"))
    refused(stored, UsageError, "'disk.vmdk' has a snapshot, 'disk-000001.vmdk'")
    with pytest.raises(UnsupportedError, match="has a parent"):
        extend.extend_disk(stored.volume, "web", "disk-000001.vmdk", 2 << 20)
    path.unlink()

    with extend._opened(stored.home, "disk-flat.vmdk", os.O_RDWR) as file:
        file.truncate(4096)
        file.sync(data_only=False)
    refused(stored, MalformedError, "extent truncated")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"VMFS", b"SPARSE", "not a flat disk"),
        (b'"disk-flat.vmdk"', b'"disk-flat.vmdk"\nRW 1 VMFS "more"', "several extents"),
        (b"\r\n\r\n", b'\r\nchangeTrackPath="disk-ctk.vmdk"\r\n\r\n', "has change tracking"),
        (DESCRIPTOR, b"QFI\xfb a qcow2", "no descriptor of a disk"),
    ],
)
def test_other_forms_are_refused(
    ioflt_home: Path, tmp_path: Path, old: bytes, new: bytes, message: str
) -> None:
    stored = Stored(tmp_path / "a")
    stored.put("disk-flat.vmdk", DISK)
    stored.put("disk.vmdk", DESCRIPTOR.replace(old, new))
    refused(stored, UnsupportedError, message)
    stored.close()


def test_geometry_that_makes_no_sense_stays() -> None:
    for odd in (b'"0"', b'"many"', b'""', b'"99999999999"'):
        changed = DESCRIPTOR.replace(b'"63"', odd)
        assert extend.extend.extended(changed, "disk.vmdk", 4096) == changed.replace(b"RW 2048", b"RW 4096")
    bios = DESCRIPTOR.replace(b"geometry.cyl", b"geometry.biosCyl").replace(
        b"geometry.heads", b"geometry.biosHeads"
    )
    bios = bios.replace(b"geometry.sectors", b"geometry.biosSectors")
    assert b'biosCylinders = "4"' in extend.extend.extended(bios, "disk.vmdk", 4096)
    huge = extend.extend.extended(DESCRIPTOR, "disk.vmdk", 1 << 36)
    assert descriptor.parse(huge).ddb["geometry.cylinders"] == "65535"
