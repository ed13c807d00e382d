"""A container's space, on file systems that run out of it."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from ioflt.datastore import container, newcontainer, openfile, stateblocks
from ioflt.format.luks2 import state
from ioflt.format.luks2.layout import DATA_OFFSET
from ioflt.testing.local_keys import LocalKeys
from ioflt.types import SECTOR_SIZE


@pytest.mark.parametrize("thin", [True, False])
def test_no_commit_needs_space(tmp_path: Path, thin: bool) -> None:
    with LocalKeys(tmp_path) as keys:
        fd = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT)
        newcontainer.create(fd, keys, [keys.new_key(None)], thin=thin)
        blocks = [state.peek(slot, b"") for slot in stateblocks.read_slots(fd)]
        assert [block and (block.sequence, block.length) for block in blocks] == [(2, 0), (1, 0)]
        assert blocks[0].file_id == blocks[1].file_id
        file = container.Container.open(fd, keys, writable=True)
        file.write(0, b"content")
        os.fsync(fd)
        taken = os.fstat(fd).st_blocks
        for length in (5, 3, 1):
            file.truncate(length)
            file.sync(data_only=False)
        assert os.fstat(fd).st_blocks == taken
        file.close()


@pytest.mark.parametrize("mode", [openfile.PUNCH_HOLE, openfile.ZERO_RANGE_KEEP_SIZE])
def test_a_long_range_of_a_thick_file_is_emptied_in_the_background(tmp_path: Path, mode: int) -> None:
    """At once it reads as zeros, also after a crash; the filler then writes them, encrypted."""
    size = 3 * container.LONG_RANGE
    with LocalKeys(tmp_path) as keys:
        fd = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT)
        newcontainer.create(fd, keys, [keys.new_key(None)], thin=False)
        file = container.Container.open(fd, keys, writable=True)
        wanted = bytearray(random.Random(1).randbytes(size))
        file.write(0, wanted)
        file.sync(data_only=False)
        begin, length = 5001, container.LONG_RANGE + 12_345

        file.allocate(mode, begin, length)
        wanted[begin : begin + length] = bytes(length)

        assert file.unfilled
        assert bytes(file.read(0, size)) == wanted
        with_crash = container.Container.open(os.dup(fd), keys, writable=False)
        assert bytes(with_crash.read(0, size)) == wanted
        with_crash.close()
        while (step := file.fill_step()) is not None:
            file.fill(step)
        assert bytes(file.read(0, size)) == wanted
        body = os.pread(fd, size, DATA_OFFSET)
        assert not [at for at in range(0, size, 4096) if body[at : at + 4096] == bytes(4096)]
        file.close()


def test_a_sync_beside_what_extends_it_in_c(tmp_path: Path) -> None:
    """It commits nothing: whoever extends the file goes by what the medium says of its length."""
    with LocalKeys(tmp_path) as keys:
        fd = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT)
        newcontainer.create(fd, keys, [keys.new_key(None)], thin=True)
        file = container.Container.open(fd, keys, writable=True)
        file.write(0, b"content")
        file.sync(data_only=False)
        form = file.native()
        assert form is not None
        assert form.writes is openfile.Writes.ANY
        assert file.settled
        form.length[0] = SECTOR_SIZE  # its first sector is full
        file.sync_data(data_only=True)
        again = file.native()
        assert again is not None
        assert again.writes is openfile.Writes.ANY
        file.close()
