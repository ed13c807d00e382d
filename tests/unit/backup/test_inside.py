"""No disk that a backup reads gives bytes of outside its capacity."""

from __future__ import annotations

import pytest

from ioflt.backup.flat import FlatDisk
from ioflt.backup.images import Layers
from ioflt.datastore.plain import PlainFile
from ioflt.errors import UsageError
from ioflt.filters.backing import Backing
from ioflt.format.qcow2.reader import Reader
from ioflt.format.qcow2.writer import CLUSTER, Writer


@pytest.fixture
def file(tmp_path):
    with (tmp_path / "file").open("wb+") as opened:
        yield PlainFile(opened.fileno(), Backing(opened.fileno(), 0))


def flat(file: PlainFile) -> FlatDisk:
    file.write(0, b"x" * (CLUSTER - 100))
    return FlatDisk(file)


def layered(file: PlainFile) -> Layers:
    writer = Writer(file.write, CLUSTER)
    writer.write(0, b"x" * CLUSTER)
    writer.finish()
    return Layers([(file, Reader(file.read))])


@pytest.mark.parametrize("make", [flat, layered])
@pytest.mark.parametrize(
    ("offset", "length"), [(CLUSTER - 1, 2), (CLUSTER, 1), (-1, 2), (0, -1), (0, CLUSTER + 1)]
)
def test_nothing_of_outside(file, make, offset, length):
    disk = make(file)
    assert disk.capacity == CLUSTER
    assert len(disk.read(0, CLUSTER)) == CLUSTER
    with pytest.raises(UsageError, match="of a disk of 65536"):
        disk.read(offset, length)
