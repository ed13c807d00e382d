"""Whatever the files of a disk hold: it is read, or refused by an error of ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ioflt.datastore.disks import Disk
from ioflt.datastore.tree import HostSide
from ioflt.errors import CorruptDataError
from tests.unit.backup.disks import cowd, qcow2, sesparse, text

K64 = 64 << 10
SIZE = 4 * K64
BASE = text(f'RW {SIZE // 512} VMFS "base-flat.vmdk"', cid=5)
FORMS = {
    "cowd": text(f'RW {SIZE // 512} VMFSSPARSE "x"', kind="vmfsSparse", parent=("base.vmdk", 5)),
    "sesparse": text(f'RW {SIZE // 512} SESPARSE "x"', kind="seSparse", parent=("base.vmdk", 5)),
    "qcow2": qcow2(SIZE, (0, b"q" * K64), backing="x", backing_format="qcow2"),
}
EXTENTS = {
    "cowd": cowd(SIZE, {0: b"a" * 512, 300: b"b" * 512}),
    "sesparse": sesparse(SIZE, {0: b"a" * 4096, 9: None}),
    "qcow2": qcow2(SIZE, (K64, b"p" * K64)),
}


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    top=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=2),
    extent=st.lists(st.tuples(st.integers(0, 2600), st.binary(min_size=1, max_size=8)), max_size=4),
)
def test_changed_bytes(
    tmp_path: Path, form: str, top: list[tuple[int, int]], extent: list[tuple[int, bytes]]
) -> None:
    disk, below = bytearray(FORMS[form]), bytearray(EXTENTS[form])
    for at, value in top:
        disk[at % len(disk)] = value
    for at, data in extent:
        below[at : at + len(data)] = data
    for name, content in (("d", disk), ("x", below), ("base.vmdk", BASE), ("base-flat.vmdk", bytes(SIZE))):
        (tmp_path / name).write_bytes(content)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with Disk(HostSide(), fd, "d") as opened:
            length = min(opened.capacity, SIZE)
            list(opened.areas(0, length))
            assert len(opened.read(0, length)) == length
    except CorruptDataError:
        return
    finally:
        os.close(fd)


def test_places_beyond_all_files(tmp_path: Path) -> None:
    """The grains begin where no file reaches to."""
    made = bytearray(EXTENTS["sesparse"])
    made[192:200] = b"\xff" * 8
    (tmp_path / "x").write_bytes(made)
    (tmp_path / "d").write_bytes(text(f'RW {SIZE // 512} SESPARSE "x"', kind="seSparse"))
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with Disk(HostSide(), fd, "d") as opened, pytest.raises(CorruptDataError, match="truncated"):
            opened.read(0, 4096)
    finally:
        os.close(fd)
