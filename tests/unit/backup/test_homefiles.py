"""What a home has: its disks, what belongs to them, and everything else."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ioflt.backup import homefiles, sources
from ioflt.datastore.home import Home
from ioflt.errors import IofltError
from tests.unit.backup.disks import text
from tests.unit.datastore.stored import VMX, Stored


@pytest.fixture
def stored(ioflt_home: Path, tmp_path: Path) -> Iterator[Stored]:
    made = Stored(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    "flat", ["web-flat.vmdk", "web-f001.vmdk", "large.vmdk"], ids=["flat", "piece", "by its length"]
)
def test_a_guest_cannot_take_files_out_of_a_backup(stored: Stored, flat: str) -> None:
    """It wrote a descriptor to the start of its disk, which names files of the home as extents and parent."""
    forged = text('RW 1 FLAT "web.nvram" 0', parent=("other.vmdk", 1)).ljust((1 << 20) + 512, b"\0")
    check_forged(stored, flat, forged)


@pytest.mark.parametrize("flat", ["web-flat.vmdk", "large.vmdk"])
def test_nor_by_a_sparse_disk(stored: Stored, flat: str) -> None:
    """The same as the header of a sparse VMDK, with a descriptor in it."""
    head = struct.pack(
        "<4sIIQQQQIQQQB4sH", b"KDMV", 1, 3, 2048, 128, 1, 20, 512, 21, 26, 128, 0, b"\n \r\n", 0
    )
    named = text('RW 2048 SPARSE "x.vmdk"', parent=("web.nvram", 1))
    check_forged(stored, flat, (head.ljust(512, b"\0") + named).ljust((1 << 20) + 512, b"\0"))


def check_forged(stored: Stored, flat: str, forged: bytes) -> None:
    stored.put("web.vmx", VMX)
    stored.put("web.nvram", b"n" * 100)
    stored.put("web.vmdk", text(f'RW {len(forged) // 512} VMFS "{flat}"'))
    stored.put(flat, forged)
    stored.put("other.vmdk", text("RW 8 ZERO"))
    found = homefiles.look(stored.home)
    assert [disk.path for disk in found.disks] == ["other.vmdk", "web.vmdk"]
    assert found.parts == {flat}
    assert found.files == ["web.nvram", "web.vmx"]


@pytest.mark.parametrize(
    ("name", "reason", "content"),
    [
        ("d/rdm.vmdk", "unknown extent type", text('RW 8 VMFSRDM "rdm-rdm.vmdk"', kind="vmfsRawDeviceMap")),
        ("d/disk.qcow2", "unknown version", b"QFI\xfb".ljust(512, b"\1")),
        ("d/out", "symlink leads out", "/etc/passwd"),
        ("d/pipe", "not a regular file", None),
    ],
)
def test_what_cannot_be_backed_up_is_named(
    stored: Stored, name: str, reason: str, content: bytes | str | None
) -> None:
    """As it is read, and as it is stored."""
    path = stored.top / "web" / name
    path.parent.mkdir()
    if isinstance(content, bytes):
        made = stored.put("made", content)
        made.rename(path)
    elif content is None:
        os.mkfifo(path)
    else:
        path.symlink_to(content)
    ways: list[Callable[[Home], object]] = [homefiles.look] + [sources.Stored] * (
        path.is_symlink() or content is None
    )
    for way in ways:
        with pytest.raises(IofltError, match=reason) as caught:
            way(stored.home)
        assert caught.value.file == str(path)
