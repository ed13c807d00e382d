"""Makes images/golden-backup/1: backups as this version writes them, which every later version must restore.

    tools/make_golden_backup.py [OUT]    OUT defaults to images/golden-backup/1, and must not exist yet

Contents and names are fixed; keys, ids and salts are random, and points are called by their time.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import golden_common
from ioflt.audit.attestation import ManifestStatement
from ioflt.audit.event import Actor
from ioflt.backup import repository, run
from ioflt.backup.run import Wanted
from ioflt.crypto.secret import Secret
from ioflt.datastore import files
from ioflt.datastore.home import Home
from ioflt.datastore.newhome import new_home
from ioflt.datastore.volume import Volume
from ioflt.errors import NotFoundError
from ioflt.keyd.attester import Attester
from ioflt.keys.directory import LOCAL
from ioflt.keys.native.store import NativeStore
from ioflt.keys.watch_requests import WatchedVm
from ioflt.paths import find
from ioflt.testing.local_keys import LocalKeys
from ioflt.types import HomeState
from ioflt.wire.keyd.values import Signing

OUT = Path(__file__).resolve().parent.parent / "images" / "golden-backup" / "1"

PASSPHRASE = b"golden provider"
VM = "web01"
DISK = "disk.raw"
K64 = 64 << 10
LENGTH = 20 * K64

README = """\
# Golden backups, manifest version 1

Made once by `tools/make_golden_backup.py`, never edited: what they hold must come back for ever. The
passphrase is a test value.

| file | what |
|---|---|
| `backups.tar.xz` | the destinations; sparse files, so unpack it with GNU tar |
| `provider.backup` | what `ioflt provider backup` wrote; passphrase `golden provider` |
| `signer.pem` | by whose key the manifests are signed |
| `CONTENTS.sha256` | the VM's files at each point, as `DESTINATION/POINT/FILE` |
| `MANIFEST.sha256` | the four files above |

| destination | points of `web01`, an encrypted VM with integrity: VMX and a raw disk |
|---|---|
| `clear` | a full one, and an increment |
| `ciphertext` | the same: containers, a sealed VMX, the record, tags |

An encrypted destination is a datastore (`images/golden`) with what is in `clear`.
"""


def noise(name: str, length: int) -> bytes:
    """Bytes that look random and are the same in every run."""
    return hashlib.shake_256(f"ioflt golden backup: {name}".encode()).digest(length)


VMX = f'.encoding = "UTF-8"\ndisplayName = "{VM}"\nscsi0:0.fileName = "{DISK}"\n'.encode()


class Signer:
    """As keyd, by a key of its own."""

    def __init__(self, path: Path) -> None:
        self.attester = Attester(path)

    def watch_vm(self, home_id: str, shown: str, device: int, inode: int) -> WatchedVm:
        raise NotFoundError("nothing is mounted here", file=shown)

    def may_sign(self, about: Signing) -> None:
        """Everything."""

    def sign_manifest(self, manifest: bytes, about: Signing) -> tuple[bytes, bytes, str]:
        by = Actor("user:golden", 1000, 1)
        made = ManifestStatement(manifest.hex(), about.home_id, None, by, datetime.now(UTC))
        return (*self.attester.sign(made), self.attester.public_key())


def write(home: Home, name: str, pieces: dict[int, bytes], length: int) -> None:
    """Into a file of the home, which is made if it is not there."""
    try:
        fd = os.open(name, os.O_RDWR, dir_fd=home.fd)
    except FileNotFoundError:
        fd = files.create(home, home.fd, name, mode=0o640)
    treatment = home.treatment(name, fd)
    file = files.open_file(home, fd, treatment, writable=True, place=lambda: (home.fd, home.fd, name))
    try:
        for offset, data in pieces.items():
            file.write(offset, data)
        file.truncate(length)
        file.sync(data_only=False)
        file.flush()
    finally:
        file.close()


def fill(top: Path, volume: Volume, keys: LocalKeys, signer: Signer) -> list[str]:
    """The lines of CONTENTS.sha256."""
    disk = bytearray(LENGTH)
    with new_home(volume, VM, integrity=True) as made:
        write(made, f"{VM}.vmx", {0: VMX}, len(VMX))
    home = volume.home(VM)
    listed = []
    for number in range(2):
        for offset, data in (
            (number * 7 * K64 + 5, noise(f"disk {number}", 3000)),
            (LENGTH - 512, b"end" * 9),
        ):
            disk[offset : offset + len(data)] = data
            write(home, DISK, {offset: data}, LENGTH)
        for kind in ("clear", "ciphertext"):
            made_of = back_up(top, volume, keys, signer, kind, incremental=number > 0)
            for name, held in ((DISK, bytes(disk)), (f"{VM}.vmx", VMX)):
                listed.append(f"{hashlib.sha256(held).hexdigest()}  {kind}/{made_of}/{name}\n")
    return listed


def back_up(
    top: Path, volume: Volume, keys: LocalKeys, signer: Signer, kind: str, *, incremental: bool
) -> str:
    """The name of the new point."""
    path, wanted = top / kind, Wanted(incremental=incremental)
    if kind == "ciphertext":
        if not path.exists():
            repository.make_ciphertext(path)
        with repository.open_ciphertext(path) as found:
            return run.run(volume, VM, found, wanted, signer).point
    if not path.exists():
        Volume.init(path, HomeState(kind), keys)
    with Volume.open(path, keys) as own, repository.of_volume(own) as found:
        return run.run(volume, VM, found, wanted, signer).point


def make(out: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["IOFLT_HOME"] = scratch
        top = Path(scratch) / "backups"
        top.mkdir()
        signer = Signer(Path(scratch) / "signer.key")
        with LocalKeys(Path(scratch)) as keys:
            Volume.init(Path(scratch) / "ds", HomeState.ENCRYPTED, keys)
            with Volume.open(Path(scratch) / "ds", keys) as volume:
                listed = fill(top, volume, keys, signer)
        with Secret(PASSPHRASE) as passphrase:
            backup = NativeStore(find().providers).backup(LOCAL, passphrase)
        out.mkdir(parents=True)
        golden_common.pack(Path(scratch), "backups", out / "backups.tar.xz")
        (out / "signer.pem").write_text(signer.attester.public_key())
    (out / "provider.backup").write_bytes(backup)
    golden_common.close(out, "".join(listed), README)


if __name__ == "__main__":
    sys.exit(golden_common.main("golden backups", OUT, make))
