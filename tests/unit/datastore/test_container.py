"""A container's space, on file systems that run out of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ioflt.datastore import container
from ioflt.datastore.header import read_state_slots
from ioflt.format.luks2 import state
from ioflt.testing.local_keys import LocalKeys


@pytest.mark.parametrize("thin", [True, False])
def test_no_commit_needs_space(tmp_path: Path, thin: bool) -> None:
    with LocalKeys(tmp_path) as keys:
        fd = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT)
        container.create(fd, keys, keys.new_key(None), thin=thin)
        blocks = [state.peek(slot, b"") for slot in read_state_slots(fd)]
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
