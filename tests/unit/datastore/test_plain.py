"""Files of clear homes."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from ioflt.datastore.plain import PlainFile
from ioflt.filters.backing import Backing


def test_what_was_half_appended_is_not_part_of_the_file(tmp_path: Path) -> None:
    """As in an encrypted home. The limit stands for a full file system: it takes a part, then refuses."""
    fd = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    file = PlainFile(fd, Backing(fd, 0))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        file.write(0, b"content")
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with pytest.raises(OSError, match="large") as raised:
            file.write(7, bytes(20_000))
        assert raised.value.errno == errno.EFBIG
        assert file.length == 7
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        file.close()
