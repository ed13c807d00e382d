"""A VM in a datastore, destinations, and who signs, for tests of backups. Keys are in this process."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ioflt.audit.attestation import ManifestStatement
from ioflt.audit.event import Actor
from ioflt.backup import repository, run, sealing
from ioflt.backup.repository import Repository
from ioflt.backup.run import Wanted
from ioflt.datastore import cbtfiles, files, tree
from ioflt.datastore.container import Container, Progress
from ioflt.datastore.home import Home
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.tree import HomeSide
from ioflt.datastore.volume import Volume
from ioflt.format.manifest.model import Manifest
from ioflt.keyd.attester import Attester
from ioflt.types import HomeState
from ioflt.wire.keyd.values import Signing
from tests.unit.datastore.stored import Stored

K64 = 64 << 10
LENGTH = 64 * K64
VMX = b'displayName = "web"\nscsi0:0.fileName = "web.vmdk"\n'
DESCRIPTOR = f"""# Disk DescriptorFile
version=1
CID=0000abcd
parentCID=ffffffff
createType="vmfs"
RW {LENGTH // 512} VMFS "web-flat.vmdk"
ddb.adapterType = "pvscsi"
ddb.uuid = "60 00 C2 9b"
""".encode()
DISK = random.Random(1).randbytes(3 * K64).ljust(40 * K64, b"\0") + random.Random(2).randbytes(K64)


class Site(Stored):
    """`ds/web` with a flat disk, a raw one, an NVRAM, a log in a directory, and a symlink to it."""

    def __init__(
        self, path: Path, default: HomeState = HomeState.ENCRYPTED, *, integrity: bool = False
    ) -> None:
        super().__init__(path, default)
        if integrity:
            record = self.home.standing().record
            assert record is not None
            self.home.store(replace(record, integrity=True, thick=True))
        self.path_of_all = path
        self.attester = Attester(path / "attest.key")
        self.put("web.vmx", VMX)
        self.put("web.vmdk", DESCRIPTOR)
        self.put("web-flat.vmdk", DISK.ljust(LENGTH, b"\0"))
        self.put("data.raw", bytes(K64) + b"raw" * 100_000 + bytes(544))
        self.put("web.nvram", b"NVRAM" * 1000)
        tree.make_directories(self.home.fd, "logs")
        with (
            tree.directory(self.home.fd, "logs") as fd,
            tree.created(HomeSide(self.home), fd, "logs/a.log") as file,
        ):
            file.write(0, b"a line\n")
        os.symlink("a.log", self.top / "web" / "logs" / "current")
        os.chmod(self.top / "web" / "logs", 0o750)

    def may_sign(self, about: Signing) -> None:
        """As keyd, which asks for no privilege here."""

    def sign_manifest(self, manifest: bytes, about: Signing) -> tuple[bytes, bytes, str]:
        """As keyd does."""
        by, time = Actor("user:alice", 1000, 1), datetime(2026, 1, 1, tzinfo=UTC)
        made = ManifestStatement(manifest.hex(), about.home_id, None, by, time)
        return (*self.attester.sign(made), self.attester.public_key())

    def signed(self, manifest: Manifest) -> bytes:
        """The manifest's file."""
        return sealing.signed(manifest, self, Signing(manifest.home_id, manifest.vm, manifest.point))

    def elsewhere(self, path: Path) -> Site:
        """The same, with destinations in another directory, which is made."""
        path.mkdir()
        other = copy.copy(self)
        other.path_of_all = path
        return other

    @contextmanager
    def destination(self, kind: str) -> Iterator[Repository]:
        """That of the kind, made if need be."""
        path = self.path_of_all / kind
        if kind == "ciphertext":
            if not path.exists():
                repository.make_ciphertext(path)
            with repository.open_ciphertext(path) as found:
                yield found
            return
        if not path.exists():
            Volume.init(path, HomeState(kind), self.keys)
        with Volume.open(path, self.keys) as volume, repository.of_volume(volume) as found:
            yield found

    def back_up(self, kind: str, *, incremental: bool = False, progress: Progress | None = None) -> Manifest:
        with self.destination(kind) as found:
            return run.run(self.volume, "web", found, Wanted(incremental), self, progress=progress)

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Into a file of the VM, as a guest does."""
        with self._open(name) as file:
            file.write(offset, data)

    def resize(self, name: str, length: int) -> None:
        """A file of the VM."""
        with self._open(name) as file:
            file.truncate(length)

    @contextmanager
    def tracked(self, name: str) -> Iterator[OpenFile]:
        """A file of the VM, open for writing as a mount opens it: its changes are marked."""
        with self._open(name) as file:
            assert isinstance(file, Container)
            assert cbtfiles.attach(self.home.fd, file)
            yield file

    @contextmanager
    def _open(self, name: str) -> Iterator[OpenFile]:
        fd = os.open(name, os.O_RDWR, dir_fd=self.home.fd)
        treatment = self.home.treatment(name, fd)
        file = files.open_file(self.home, fd, treatment, writable=True, place=lambda: None)
        yield file
        file.sync(data_only=False)
        file.flush()
        file.close()


def contents(home: Home, path: str = "") -> dict[str, bytes]:
    """What the files of a home hold, by path; of a directory its mode, of a symlink where it leads."""
    found: dict[str, bytes] = {}
    with tree.directory(home.fd, path or ".") as fd:
        for name in os.listdir(fd):
            child = os.path.join(path, name)
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if name.startswith(".ioflt"):
                continue
            if os.path.islink(f"/proc/self/fd/{fd}/{name}"):
                found[child] = os.readlink(name, dir_fd=fd).encode()
            elif os.path.isdir(f"/proc/self/fd/{fd}/{name}"):
                found[child] = oct(info.st_mode).encode()
                found |= contents(home, child)
            else:
                with tree.opened(HomeSide(home), fd, child) as file:
                    found[child] = bytes(file.read(0, file.length))
    return found
