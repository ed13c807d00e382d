"""An OVF package, to be read: the members of an OVA, or the files beside an .ovf, with their digests.

Nothing is unpacked. Names are bare file names, members regular files, each name once. A manifest that is
there lists every file that the envelope names, and every digest in it is verified before an import ends.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from types import TracebackType
from typing import Final

from ioflt.datastore import files
from ioflt.errors import MalformedError
from ioflt.format.ovf import manifest, reader
from ioflt.format.ovf.model import File
from ioflt.format.vmdk.descriptor import confine

#: Bytes read at once.
BLOCK: Final = 1 << 20

#: Most members of an OVA accepted.
MAX_MEMBERS: Final = 10_000

_MAX_TAR_HEADER: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """Where a file of the package lies: `size` bytes at `offset` of `fd`."""

    fd: int
    offset: int
    size: int


class Package:
    """A context manager. `envelope` is the VM; `blocks` gives a file's bytes, once; `verify` ends it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open FILE.ova, or FILE.ovf with the files beside it.

        Raises OSError; MalformedError "bad archive", "truncated", "too many members", "duplicate member",
        "not a regular file", "member name not confined", "no envelope", "more than one envelope",
        "file missing", "size differs", "file not in manifest"; those of `ovf.reader` and `ovf.manifest`.
        """
        self._fds: list[int] = []
        self._parts: dict[str, Part] = {}
        self._beside: int | None = None
        self._read: set[str] = set()
        try:
            directory, name = os.path.split(os.path.abspath(path))
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._fds.append(fd)
            if name.lower().endswith(".ovf"):
                self._beside = fd
            else:
                self._fds.append(files.open_regular(fd, name, os.O_RDONLY))
                self._parts = self._index(self._fds[-1])
                name = self._envelope_name()
            text = self._whole(name, reader.MAX_SIZE)
            self.envelope = reader.parse(text)
            self._entries: tuple[manifest.Entry, ...] = ()
            manifest_name = name[: -len(".ovf")] + ".mf"
            if self._find(manifest_name):
                self._entries = manifest.parse(self._whole(manifest_name, manifest.MAX_SIZE))
            self._hashes = {(e.name, e.algorithm): _hash(e.algorithm) for e in self._entries}
            self._update(name, text)
            self._read.add(name)
            self._check_listed()
        except BaseException:  # nobody else closes it
            self.close()
            raise

    def _check_listed(self) -> None:
        listed = {entry.name for entry in self._entries}
        for file in self.envelope.files:
            pieces = self._pieces(file)
            if listed and file.href not in listed and not listed.issuperset(pieces):
                raise MalformedError("file not in manifest", file=file.href)

    def blocks(self, file: File) -> Iterator[bytes]:
        """The bytes of a file that the envelope names, its chunks joined.

        Raises MalformedError "read twice", "truncated".
        """
        if file.href in self._read:
            raise MalformedError("read twice", "two disks of one file", file=file.href)
        self._read.add(file.href)
        for name in self._pieces(file):
            self._read.add(name)
            for block in self._part(name):
                self._update(name, block)
                if name != file.href:
                    self._update(file.href, block)
                yield block

    def left_out(self) -> list[File]:
        """Files that the envelope names and nobody read."""
        return [file for file in self.envelope.files if file.href not in self._read]

    def verify(self) -> None:
        """Every digest of the manifest, that of files which nobody read included.

        Raises AuthenticationError "digest does not verify", MalformedError "listed file missing".
        """
        for file in self.left_out() if self._entries else ():
            for _ in self.blocks(file):
                pass
        for name in {entry.name for entry in self._entries} - self._read:
            if self._find(name):
                self._read.add(name)
                for block in self._part(name):
                    self._update(name, block)
        manifest.verify(self._entries, self._digest)

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def __enter__(self) -> Package:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Where files lie

    def _index(self, fd: int) -> dict[str, Part]:
        """The members of an archive."""
        size = os.fstat(fd).st_size
        parts: dict[str, Part] = {}
        try:
            archive = tarfile.TarFile(fileobj=_Archive(fd), mode="r")  # type: ignore[arg-type]  # nothing is written
            while (member := archive.next()) is not None:
                name = confine(member.name.removeprefix("./"), "member")
                if not member.isreg() or member.issparse():
                    raise MalformedError("not a regular file", file=name)
                if name in parts:
                    raise MalformedError("duplicate member", file=name)
                if member.size < 0 or member.offset_data + member.size > size:
                    raise MalformedError("truncated", "a member goes beyond the end", file=name)
                if len(parts) == MAX_MEMBERS:
                    raise MalformedError("too many members", f"more than {MAX_MEMBERS}")
                parts[name] = Part(fd, member.offset_data, member.size)
        except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
            raise MalformedError("bad archive", str(error)[:100]) from error
        return parts

    def _find(self, name: str) -> Part | None:
        part = self._parts.get(name)
        if part is None and self._beside is not None:
            try:
                fd = files.open_regular(self._beside, name, os.O_RDONLY)
            except FileNotFoundError:
                return None
            self._fds.append(fd)
            part = self._parts[name] = Part(fd, 0, os.fstat(fd).st_size)
        return part

    def _envelope_name(self) -> str:
        names = [name for name in self._parts if name.lower().endswith(".ovf")]
        if len(names) != 1:
            raise MalformedError("more than one envelope" if names else "no envelope")
        return names[0]

    def _pieces(self, file: File) -> list[str]:
        """Names of the parts of a file, in order."""
        if file.chunk_size is None:
            names = [file.href] if self._find(file.href) else []
        else:
            chunks = (f"{file.href}.{number:09}" for number in range(MAX_MEMBERS))
            names = list(takewhile(self._find, chunks))
        if not names:
            raise MalformedError("file missing", file=file.href)
        size = sum(self._parts[name].size for name in names)
        if file.size is not None and size != file.size:
            raise MalformedError(
                "size differs", f"{size} bytes, the envelope says {file.size}", file=file.href
            )
        return names

    # Bytes and digests

    def _part(self, name: str) -> Iterator[bytes]:
        part = self._parts[name]
        done = 0
        while done < part.size:
            block = os.pread(part.fd, min(BLOCK, part.size - done), part.offset + done)
            if not block:
                raise MalformedError("truncated", "it became shorter meanwhile", file=name)
            done += len(block)
            yield block

    def _whole(self, name: str, limit: int) -> bytes:
        part = self._find(name)
        if part is None:
            raise MalformedError("file missing", file=name)
        if part.size > limit:
            raise MalformedError("too large", f"{part.size} bytes, at most {limit}", file=name)
        return b"".join(self._part(name))

    def _update(self, name: str, data: bytes) -> None:
        for algorithm in manifest.ALGORITHMS:
            if (name, algorithm) in self._hashes:
                self._hashes[name, algorithm].update(data)

    def _digest(self, name: str, algorithm: str) -> bytes | None:
        return self._hashes[name, algorithm].digest() if name in self._read else None


class _Archive:
    """What `tarfile` reads: an OVA's headers, none of them large (it takes a whole one into memory)."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._position = 0

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_TAR_HEADER:
            raise MalformedError("bad archive", f"a header of {size} bytes")
        data = os.pread(self._fd, size, self._position)
        self._position += len(data)
        return data

    def seek(self, position: int) -> None:
        if position < 0:
            raise ValueError("negative offset")
        self._position = position

    def tell(self) -> int:
        return self._position


def _hash(algorithm: str) -> hashlib._Hash:
    return hashlib.new(manifest.ALGORITHMS[algorithm][0], usedforsecurity=False)
