"""SEEK_DATA, SEEK_HOLE and fallocate through the kernel to our handlers, and a mount that has none."""

import ctypes
import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.fuse

KEEP_SIZE, PUNCH_HOLE = 1, 2
DATA, END, SIZE = 65536, 131072, 1 << 20
#: Offsets at which the handlers of one_file_fs.py fail.
FUSE_ERROR, OS_ERROR, OTHER_ERROR, NEVER = 1 << 12, 2 << 12, 3 << 12, 4 << 12

_libc = ctypes.CDLL(None, use_errno=True)


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), which Python does not offer: os.posix_fallocate writes zeros where it is refused."""
    if _libc.fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class OneFileMount:
    """one_file_fs.py, mounted, with its one file open as `descriptor`."""

    def __init__(self, mountpoint: Path, when: str) -> None:
        program = Path(__file__).with_name("one_file_fs.py")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(program), str(mountpoint), when],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.ready = self.told()
        self.descriptor = os.open(mountpoint / "disk", os.O_RDWR)

    def told(self) -> dict[str, object]:
        """The next line that the file system prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return json.loads(line)

    def close(self) -> str:
        """End it; what it wrote to stderr."""
        os.close(self.descriptor)
        self.process.terminate()
        errors = self.process.communicate(timeout=PATIENCE_S)[1]
        assert self.process.returncode == 0, errors
        return errors


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    path = tmp_path / "mnt"
    path.mkdir()
    return path


@pytest.fixture
def mount(mountpoint: Path) -> Iterator[OneFileMount]:
    mounted = OneFileMount(mountpoint, "before")
    assert mounted.ready == {"active": True, "reason": None}
    yield mounted
    assert mounted.close() == ""


def test_seek_reaches_the_handler(mount: OneFileMount) -> None:
    assert os.lseek(mount.descriptor, 0, os.SEEK_DATA) == DATA
    assert mount.told() == {"call": "lseek", "fh": 77, "offset": 0, "whence": os.SEEK_DATA}
    assert os.lseek(mount.descriptor, DATA + 5, os.SEEK_HOLE) == END
    assert mount.told() == {"call": "lseek", "fh": 77, "offset": DATA + 5, "whence": os.SEEK_HOLE}
    with pytest.raises(OSError, match="No such device or address") as raised:
        os.lseek(mount.descriptor, END, os.SEEK_DATA)
    assert raised.value.errno == errno.ENXIO


def test_fallocate_reaches_the_handler(mount: OneFileMount) -> None:
    fallocate(mount.descriptor, KEEP_SIZE | PUNCH_HOLE, 1 << 16, 1 << 15)
    assert mount.told() == {
        "call": "fallocate",
        "fh": 77,
        "mode": KEEP_SIZE | PUNCH_HOLE,
        "offset": 1 << 16,
        "length": 1 << 15,
    }


@pytest.mark.parametrize(("offset", "code"), [(FUSE_ERROR, errno.ENOKEY), (OS_ERROR, errno.ENOSPC)])
def test_errors_keep_their_number(mount: OneFileMount, offset: int, code: int) -> None:
    with pytest.raises(OSError) as raised:  # noqa: PT011  # the number is what is asked
        fallocate(mount.descriptor, KEEP_SIZE, offset, 4096)
    assert raised.value.errno == code
    with pytest.raises(OSError) as raised:  # noqa: PT011
        os.lseek(mount.descriptor, offset, os.SEEK_HOLE)
    assert raised.value.errno == code


def test_a_bug_in_a_handler_is_eio_and_the_mount_goes_on(mountpoint: Path) -> None:
    mount = OneFileMount(mountpoint, "before")
    with pytest.raises(OSError, match="Input/output error"):
        fallocate(mount.descriptor, KEEP_SIZE, OTHER_ERROR, 4096)
    assert os.lseek(mount.descriptor, 0, os.SEEK_DATA) == DATA
    assert "ValueError: a bug of the handler" in mount.close()


def test_a_waiting_request_holds_up_no_other_and_is_answered_at_the_end(mountpoint: Path) -> None:
    mount = OneFileMount(mountpoint, "before")
    codes: list[int | None] = []

    def wait() -> None:
        try:
            fallocate(descriptor, KEEP_SIZE, NEVER, 4096)
        except OSError as error:
            codes.append(error.errno)

    descriptor = os.open(mountpoint / "disk", os.O_RDWR)  # stays open when the mount ends
    waiting = threading.Thread(target=wait)
    waiting.start()
    assert mount.told()["call"] == "fallocate"
    assert os.pread(mount.descriptor, 10, 0) == bytes(10)
    assert mount.close() == ""
    waiting.join(timeout=PATIENCE_S)
    os.close(descriptor)
    assert codes == [errno.ENODEV]


@pytest.mark.parametrize(
    ("when", "reason"),
    [
        ("never", "None"),
        ("after", "pyfuse3 was imported before the extension"),
        ("unbuilt", "the extension is not built"),
    ],
)
def test_without_the_hook_the_mount_works(mountpoint: Path, when: str, reason: str) -> None:
    mount = OneFileMount(mountpoint, when)
    assert mount.ready["active"] is False
    assert str(mount.ready["reason"]).startswith(reason)
    assert os.pread(mount.descriptor, 4096, SIZE - 10) == bytes(10)
    assert os.lseek(mount.descriptor, 0, os.SEEK_DATA) == 0  # the kernel's own answer: all is data
    assert os.lseek(mount.descriptor, 0, os.SEEK_HOLE) == SIZE
    with pytest.raises(OSError, match="Operation not supported"):
        fallocate(mount.descriptor, KEEP_SIZE | PUNCH_HOLE, 0, 4096)
    assert mount.close() == ""
