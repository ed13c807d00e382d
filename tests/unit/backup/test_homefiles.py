"""What a home has: its disks, what belongs to them, and everything else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ioflt.backup import homefiles
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
    stored.put("web.vmx", VMX)
    stored.put("web.nvram", b"n" * 100)
    stored.put("web.vmdk", text(f'RW {len(forged) // 512} VMFS "{flat}"'))
    stored.put(flat, forged)
    stored.put("other.vmdk", text("RW 8 ZERO"))
    found = homefiles.look(stored.home)
    assert [disk.path for disk in found.disks] == ["other.vmdk", "web.vmdk"]
    assert found.parts == {flat}
    assert found.files == ["web.nvram", "web.vmx"]
