"""QEMU's own LUKS: an image that qemu-storage-daemon shows as a file, so that fio does the same to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .filesystem import DISK, Served, fill
from .programs import need, run


class Luks(Served):
    """Of one disk, whose size is fixed."""

    cache_s = 1.0

    def __init__(self, base: Path, size: int) -> None:
        need("qemu-img", "qemu-storage-daemon")
        super().__init__(base)
        self._image = self.store / "luks.img"
        self._secret = base / "secret"
        self._secret.write_text("bench")
        options = "key-secret=key,iter-time=10"
        run("qemu-img", "create", "-q", *self._key(), "-f", "luks", "-o", options, self._image, size)
        self._file = self.mountpoint / DISK
        self._file.touch()
        self._size = size
        self._filled = False

    @property
    def mounted_at(self) -> Path:
        return self._file

    def mount(self) -> None:
        super().mount()
        if not self._filled:
            fill(self._file, self._size)
            self._filled = True

    def _command(self) -> Sequence[object]:
        return (
            *("qemu-storage-daemon", *self._key()),
            *("--blockdev", f"driver=file,node-name=file,filename={self._image}"),
            *("--blockdev", "driver=luks,node-name=luks,file=file,key-secret=key"),
            *("--export", f"type=fuse,id=fuse,node-name=luks,mountpoint={self._file},writable=on"),
        )

    def _key(self) -> tuple[str, str]:
        return "--object", f"secret,id=key,file={self._secret}"
