"""A datastore with an encrypted home, for tests of what looks at it and repairs it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ioflt.datastore import files
from ioflt.datastore.home import Home
from ioflt.datastore.standing import Treatment, stored_as
from ioflt.datastore.volume import Volume
from ioflt.format.luks2 import header as luks2
from ioflt.format.luks2.layout import HEADERS_SIZE
from ioflt.testing.local_keys import LocalKeys
from ioflt.types import HomeState

VMX = b'.encoding = "UTF-8"\ndisplayName = "web"\nmemsize = "64"\n'
DESCRIPTOR = b"""# Disk DescriptorFile
version=1
CID=0000abcd
parentCID=ffffffff
createType="monolithicFlat"
RW 40 FLAT "disk-flat.vmdk" 0
"""


class Stored:
    """`path/ds` with the home `web`. Keys are in this process."""

    def __init__(self, path: Path, default: HomeState = HomeState.ENCRYPTED) -> None:
        self.keys = LocalKeys(path)
        self.top = path / "ds"
        Volume.init(self.top, default, self.keys)
        self.volume = Volume.open(self.top, self.keys)
        self.home = self.volume.make_home("web", 0o755)

    def close(self) -> None:
        self.volume.close()
        self.keys.close()

    def path(self, name: str, home: str = "web") -> Path:
        return self.top / home / name

    def put(self, name: str, data: bytes, *, home: Home | None = None, thin: bool | None = None) -> Path:
        """A new file with these contents, as a mount would store it."""
        home = home or self.home
        standing = home.standing()
        fd = files.create(home, home.fd, name, mode=0o644, thin=thin)
        treatment = stored_as(name) if standing.state is HomeState.ENCRYPTED else Treatment.CLEAR
        place = (home.fd, home.fd, name)
        file = files.open_file(home, fd, treatment, writable=True, place=lambda: place)
        if data:
            file.write(0, data)
        file.sync(data_only=False)
        file.close()
        return self.top / home.name / name

    def read(self, name: str) -> bytes:
        fd = os.open(self.path(name), os.O_RDONLY)
        file = files.open_file(self.home, fd, stored_as(name), writable=False, place=lambda: None)
        try:
            return bytes(file.read(0, file.length))
        finally:
            file.close()

    def header(self, name: str) -> luks2.Header:
        return luks2.parse(self.path(name).read_bytes()[:HEADERS_SIZE])


def patch(path: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes of a file behind everyone's back."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def snapshot(top: Path) -> dict[str, tuple[bytes | None, int, int]]:
    """Contents, inode and mtime of all that is below `top`."""
    return {
        str(path): (
            path.read_bytes() if stat.S_ISREG(info.st_mode) and info.st_size < 64 << 20 else None,
            info.st_ino,
            info.st_mtime_ns,
        )
        for path in top.rglob("*")
        for info in (path.lstat(),)
    }
