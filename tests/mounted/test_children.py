"""Programs that are to end while the file system that they read from hangs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ioflt.backup import children
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.fuse

#: An offset at which one_file_fs.py does not answer.
NEVER = 4 << 12


def test_who_reads_from_a_mount_that_hangs_is_left_alone(tmp_path: Path) -> None:
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    serving = [sys.executable, Path(__file__).with_name("one_file_fs.py"), mountpoint, "before"]
    seeking = (
        f"import os; os.lseek(os.open({str(mountpoint / 'disk')!r}, os.O_RDONLY), {NEVER}, os.SEEK_DATA)"
    )
    with subprocess.Popen(serving, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()  # it serves
        reader = subprocess.Popen([sys.executable, "-c", seeking])
        server.stdout.readline()  # it was asked, and does not answer
        children.end(reader, 0.1)
        assert reader.returncode is None
        server.kill()  # by which the kernel ends what waits for it
        assert reader.wait(PATIENCE_S) < 0
    subprocess.run(["umount", "-l", mountpoint], check=True)
