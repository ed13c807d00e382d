"""stress-ng's stressors of file systems, verifying, at the mount."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.mounted.place import Place

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.interop("stress-ng"), pytest.mark.slow]

#: Seconds that the stressors of one group run, side by side.
SECONDS = 2

#: stress-ng's class "filesystem", and what else of it works on files. Left out are what does not stay below
#: --temp-path or uses no file (binderfs, dup, eventfd, getdent, io, ioprio, procfs), what would mount or mark
#: whole file systems (bind-mount, fanotify), what this file system lacks (verity, xattr), and io-uring, which
#: fails on any file system (it asks for attributes of a file that it has removed).
GROUPS = {
    "data": ("copy-file", "fallocate", "fpunch", "fsize", "hdd", "iomix", "seek", "sync-file"),
    "mappings": ("fault", "mmap", "msync", "readahead", "revio", "sendfile"),
    "queues": ("aio", "aiol", "splice"),
    "names": ("dentry", "dir", "dirdeep", "dirmany", "filename", "link", "rename", "symlink", "touch"),
    "attributes": ("access", "chattr", "chmod", "chown", "fstat", "inode-flags", "utime"),
    "opening": ("chdir", "fcntl", "fiemap", "file-ioctl", "handle", "mknod", "open"),
    "locks": ("dnotify", "flock", "inotify", "lease", "locka", "lockf", "lockofd"),
}

#: Makes holes of terabytes, whose space a thick file has to have.
TAKES_ALL_SPACE = ("fsize",)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("home", ["thin", "thick", "tagged"])
def test_stressors(shared: Place, home: str, group: str) -> None:
    directory = shared.mountpoint / home / group
    directory.mkdir()
    names = [name for name in GROUPS[group] if home != "thick" or name not in TAKES_ALL_SPACE]
    stressors = [word for name in names for word in (f"--{name}", "1")]
    result = subprocess.run(
        ["stress-ng", "--temp-path", directory, "--verify", f"--timeout={SECONDS}s",
         "--sync-file-bytes=8m", "--readahead-bytes=16m", "--revio-bytes=16m", "--seek-size=16m",
         "--mmap-bytes=8m", "--mmap-file", *stressors],
        capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "fail:" not in result.stdout + result.stderr
    shutil.rmtree(directory)
    assert shared.complaints() == []
