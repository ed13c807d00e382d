"""A storage that loses, tears and reorders whatever was not synced, and that can be stopped at every call.

A file is its 512-byte sectors. Of each sector that was written since the last fsync the medium may have any
version since then, whatever it has of others; likewise of the size, and of each name since its directory was
synced. Three ways to stop at a call:

- `POWER`: before it; then `cut` chooses what the medium has;
- `KILL`: before it, or in the middle of a write; what was written stays in memory, still unsynced;
- `ERROR`: an fsync fails: some of the sectors reached the medium, and all count as written from then on, as
  Linux does; a write fails half done, as on a full file system.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

UNIT = 512
ZERO = bytes(UNIT)

CONTAINER, SIDECAR = "container", "sidecar"
#: Of a file of tags; the UUID of its container follows.
TAGS = "tags of "


class Stopped(Exception):
    """The process ended here."""


@dataclass
class ModelFile:
    """`sectors`: as programs see them; `medium`: as the disk has them; `unsynced`: versions in between."""

    sectors: dict[int, bytes] = field(default_factory=dict)
    medium: dict[int, bytes] = field(default_factory=dict)
    unsynced: dict[int, list[bytes]] = field(default_factory=dict)
    bytes: int = 0
    sizes: list[int] = field(default_factory=lambda: [0])  # on the medium, and since
    mtime: int = 0

    def put(self, index: int, data: bytes) -> None:
        self.unsynced.setdefault(index, []).append(data)
        self.sectors[index] = data

    def set_size(self, size: int) -> None:
        self.bytes = size
        self.sizes.append(size)

    def synced(self) -> None:
        for index, versions in self.unsynced.items():
            self.medium[index] = versions[-1]
        self.unsynced.clear()
        self.sizes = [self.bytes]

    def fail_sync(self, choose: random.Random) -> None:
        """Some sectors reach the medium; none is tried again."""
        for index, versions in self.unsynced.items():
            if choose.random() < 0.5:
                self.medium[index] = versions[-1]
        self.unsynced.clear()

    def cut(self, choose: random.Random, mode: str) -> ModelFile:
        """The file after the power came back."""
        made = dict(self.medium)
        for index, versions in self.unsynced.items():
            if mode == "all" or (mode == "some" and choose.random() < 0.5):
                made[index] = versions[-1] if mode == "all" else choose.choice(versions)
        size = {"all": self.sizes[-1], "none": self.sizes[0]}.get(mode) or choose.choice(self.sizes)
        made = {index: data for index, data in made.items() if index * UNIT < size}
        return ModelFile(dict(made), made, {}, size, [size], self.mtime)

    def copy(self) -> ModelFile:
        unsynced = {index: list(versions) for index, versions in self.unsynced.items()}
        return ModelFile(
            dict(self.sectors), dict(self.medium), unsynced, self.bytes, list(self.sizes), self.mtime
        )


class Disk:
    """The files, and which names they have: in memory, on the medium, in between."""

    def __init__(self, names: dict[str, ModelFile | None]) -> None:
        self.names = dict(names)
        self.versions: dict[str, list[ModelFile | None]] = {name: [names[name]] for name in names}

    def bind(self, name: str, file: ModelFile | None) -> None:
        self.names[name] = file
        self.versions.setdefault(name, [None]).append(file)

    def sync(self, name: str) -> None:
        self.versions[name] = [self.names[name]]

    def cut(self, choose: random.Random, mode: str | None = None) -> Disk:
        """The medium after a power cut: `mode` "none" of what was unsynced, "all", or "some"."""
        names: dict[str, ModelFile | None] = {}
        for name, versions in self.versions.items():
            how = mode or choose.choice(["none", "some", "some", "all"])
            last = {"none": versions[0], "all": versions[-1]}
            file = last[how] if how in last else choose.choice(versions)
            part = mode or choose.choice(["none", "some", "some", "all"])
            names[name] = None if file is None else file.cut(choose, part)
        return Disk(names)

    def copy(self) -> Disk:
        """The same once more: memory, medium and what is in between."""
        files: dict[int, ModelFile] = {}

        def twin(file: ModelFile | None) -> ModelFile | None:
            if file is None:
                return None
            if id(file) not in files:
                files[id(file)] = file.copy()
            return files[id(file)]

        made = Disk({})
        made.names = {name: twin(file) for name, file in self.names.items()}
        made.versions = {name: list(map(twin, versions)) for name, versions in self.versions.items()}
        return made


POWER, KILL, ERROR = "power", "kill", "error"


class Process:
    """Counts the calls that change something, and ends at the one that it was told."""

    def __init__(self, secrets: tuple[bytes, ...], choose: random.Random) -> None:
        self.calls = 0
        self.stop_at: int | None = None
        self.kind = POWER
        self._secrets = secrets
        self._choose = choose

    def call(self, change: object = None, file: ModelFile | None = None) -> None:
        """Before a call. Raises Stopped, or OSError where it fails."""
        self.calls += 1
        if self.calls - 1 != self.stop_at:
            return
        if self.kind == ERROR and change == "fsync" and file is not None:
            file.fail_sync(self._choose)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if isinstance(change, list) and file is not None:  # the sectors of a write: part of it is done
            keep = self._choose.randrange(len(change) + 1) if self.kind != POWER else 0
            for index, data in change[:keep]:
                file.put(index, data)
            if self.kind == ERROR:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise Stopped

    def check(self, data: bytes) -> None:
        """Nothing clear, and no key, is ever written anywhere."""
        for secret in self._secrets:
            assert secret not in data, "plaintext or a key on the medium"


class OpenFile:
    """A `storage.File` of the model."""

    def __init__(self, process: Process, file: ModelFile) -> None:
        self.process = process
        self.file = file

    def pread(self, length: int, offset: int) -> bytearray:
        length = max(0, min(length, self.file.bytes - offset))
        first, head = divmod(offset, UNIT)
        get = self.file.sectors.get
        last = first - (-(head + length) // UNIT)
        return bytearray(b"".join([get(index, ZERO) for index in range(first, last)])[head : head + length])

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        data, end = bytes(data), offset + len(data)
        self.process.check(data)
        if offset % UNIT or end % UNIT:  # the rest of a sector is written as it was
            head, tail = offset % UNIT, -end % UNIT
            before = self.pread(head, offset - head).ljust(head, b"\0")
            behind = self.pread(tail, end).ljust(tail, b"\0")
            data, offset = bytes(before + data + behind), offset - head
        first = offset // UNIT
        parts = [(first + at // UNIT, data[at : at + UNIT]) for at in range(0, len(data), UNIT)]
        self.process.call(parts, self.file)
        for index, part in parts:
            self.file.put(index, part)
        if end > self.file.bytes:
            self.file.set_size(end)

    def fsync(self) -> None:
        self.process.call("fsync", self.file)
        self.file.synced()

    def size(self) -> int:
        return self.file.bytes

    def resize(self, size: int) -> None:
        self.process.call()
        assert size >= self.file.bytes
        self.file.set_size(size)

    def next_data(self, offset: int) -> int:
        found = min(
            (index * UNIT for index in self.file.sectors if index * UNIT >= offset - offset % UNIT),
            default=None,
        )
        return self.file.bytes if found is None or found >= self.file.bytes else max(offset, found)


class ModelStorage:
    """A `storage.Storage` of the model."""

    def __init__(self, disk: Disk, process: Process) -> None:
        self.disk = disk
        self.process = process
        file = disk.names[CONTAINER]
        assert file is not None
        self._container = OpenFile(process, file)

    @property
    def container(self) -> OpenFile:
        return self._container

    @contextmanager
    def header_lock(self) -> Iterator[None]:
        yield

    def mtime(self) -> int:
        return self._container.file.mtime

    def set_mtime(self, mtime: int) -> None:
        self._container.file.mtime = mtime

    def sidecar(self) -> OpenFile | None:
        file = self.disk.names[SIDECAR]
        return None if file is None else OpenFile(self.process, file)

    def make_sidecar(self, size: int) -> OpenFile:
        self.process.call()
        made = ModelFile(bytes=size, sizes=[size])
        self.disk.bind(SIDECAR, made)
        return OpenFile(self.process, made)

    def remove_sidecar(self) -> None:
        self.process.call()
        self.disk.bind(SIDECAR, None)

    def tags(self, uuid: str) -> OpenFile | None:
        file = self.disk.names.get(TAGS + uuid)
        return None if file is None else OpenFile(self.process, file)

    def make_tags(self, uuid: str) -> OpenFile:
        self.process.call()
        self.disk.bind(TAGS + uuid, ModelFile())
        return OpenFile(self.process, self.disk.names[TAGS + uuid])

    def sync_sidecars(self) -> None:
        self.process.call()
        for name in self.disk.names:
            if name != CONTAINER:
                self.disk.sync(name)

    def make_draft(self) -> OpenFile:
        return OpenFile(self.process, ModelFile())

    def dress(self, draft: OpenFile) -> None:
        draft.file.mtime = self._container.file.mtime

    def publish(self, draft: OpenFile) -> None:
        self.process.call()
        self.disk.bind(CONTAINER, draft.file)

    def sync_names(self) -> None:
        self.process.call()
        self.disk.sync(CONTAINER)
