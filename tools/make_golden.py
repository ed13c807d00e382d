"""Makes images/golden/3: a small datastore as this version writes it, which every later version must open.

    tools/make_golden.py [OUT]       OUT defaults to images/golden/3, and must not exist yet

Contents, names and times are fixed; keys, ids and salts are random, as they are in every datastore.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import golden_common
from ioflt.crypto.secret import Secret
from ioflt.datastore import files, lifecycle, recovery, recrypt
from ioflt.datastore.home import Home
from ioflt.datastore.volume import Volume
from ioflt.keys.directory import LOCAL
from ioflt.keys.native.store import NativeStore
from ioflt.paths import find
from ioflt.testing.local_keys import LocalKeys
from ioflt.types import HomeState

OUT = Path(__file__).resolve().parent.parent / "images" / "golden" / "3"

BACKUP_PASSPHRASE = b"golden provider"
RECOVERY_PASSPHRASE = b"golden recovery"

#: Seconds; of every file and directory.
TIME = 1_700_000_000

README = """\
# Golden datastore, format version 3

Made once by `tools/make_golden.py`, never edited: what it holds must open for ever. Its passphrases are test
values.

| file | what |
|---|---|
| `datastore.tar.xz` | the datastore, ciphertext; sparse files, so unpack it with GNU tar |
| `provider.backup` | what `ioflt provider backup` wrote; passphrase `golden provider` |
| `CONTENTS.sha256` | every file as the mount shows it |
| `MANIFEST.sha256` | the three files above |

In the datastore:

| path | stored as |
|---|---|
| `notes.txt` | thin container at the datastore's root |
| `web01/` | encrypted, thin, two keys: VMX, descriptor, extent with holes, log below, empty file |
| `db01/` | encrypted, thick, recrypted once; recovery passphrase `golden recovery` on `db01-flat.vmdk` |
| `safe01/` | encrypted, thin, with integrity: VMX, extent with a hole and an odd length, empty file |
| `plain01/` | clear |

With it, and nothing of the machine that made it:

```
tar -xJf datastore.tar.xz && export IOFLT_HOME=$PWD/home && mkdir -m 700 home mnt
printf 'golden provider\\n' | ioflt provider restore provider.backup --passphrase-file -
ioflt check ds          # one finding: plain01 is clear
ioflt mount ds mnt && (cd mnt && sha256sum -c ../CONTENTS.sha256); ioflt umount mnt
printf 'golden recovery' | cryptsetup open --test-passphrase --type luks2 --key-file - ds/db01/db01-flat.vmdk
```
"""


def noise(name: str, length: int) -> bytes:
    """Bytes that look random and are the same in every run."""
    return hashlib.shake_256(f"ioflt golden: {name}".encode()).digest(length)


def descriptor(extent: str, size: int, kind: str) -> bytes:
    return (
        "# Disk DescriptorFile\nversion=1\nCID=0badcafe\nparentCID=ffffffff\n"
        f'createType="{kind}"\n\nRW {size // 512} {"VMFS" if kind == "vmfs" else "FLAT"} "{extent}"'
        f'{"" if kind == "vmfs" else " 0"}\n\nddb.adapterType = "lsilogic"\n'
    ).encode()


def vmx(name: str) -> bytes:
    return (
        f'.encoding = "UTF-8"\nconfig.version = "8"\nvirtualHW.version = "13"\ndisplayName = "{name}"\n'
        f'memsize = "256"\nscsi0:0.present = "TRUE"\nscsi0:0.fileName = "{name}.vmdk"\n'
    ).encode()


#: Per home: path → pieces of the file (offset → bytes), and its length.
File = tuple[dict[int, bytes], int]


def whole(data: bytes) -> File:
    return ({0: data} if data else {}), len(data)


THIN_SIZE = 3 * 2**20 + 512
HOMES: dict[str, dict[str, File]] = {
    "": {"notes.txt": whole(b"A file at the root follows the datastore.\n")},
    "web01": {
        "web01.vmx": whole(vmx("web01")),
        "web01.vmdk": whole(descriptor("web01-flat.vmdk", THIN_SIZE, "vmfs")),
        "web01-flat.vmdk": (
            {
                0: noise("boot", 4096),
                70_001: noise("unaligned", 9000),
                2**20: bytes(8192),
                THIN_SIZE - 700: noise("tail", 700),
            },
            THIN_SIZE,
        ),
        "logs/vmware.log": whole(b"vmx| Log for VMware\n" * 300),
        "web01.vmsd": whole(b""),
    },
    "db01": {
        "db01.vmx": whole(vmx("db01")),
        "db01.vmdk": whole(descriptor("db01-flat.vmdk", 256 << 10, "monolithicFlat")),
        "db01-flat.vmdk": ({0: noise("table", 5000), 200_000: noise("index", 100)}, 256 << 10),
    },
    "safe01": {
        "safe01.vmx": whole(vmx("safe01")),
        "safe01-flat.vmdk": (
            {0: noise("first area", 9000), 9 * 2**20 + 5: noise("third area", 5000)},
            10 * 2**20 + 77,
        ),
        "safe01.vmsd": whole(b""),
    },
    "plain01": {
        "plain01.vmx": whole(vmx("plain01")),
        "plain01-flat.vmdk": ({4096: noise("plain", 4096)}, 64 << 10),
    },
}


def plaintext(file: File) -> bytes:
    pieces, length = file
    data = bytearray(length)
    for offset, piece in pieces.items():
        data[offset : offset + len(piece)] = piece
    return bytes(data)


def put(home: Home, path: str, file: File) -> None:
    """A new file, stored as its home says: what a mount does."""
    pieces, length = file
    directory, name = os.path.split(path)
    if directory:
        os.mkdir(directory, 0o755, dir_fd=home.fd)
    parent = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=home.fd)
    try:
        fd = files.create(home, parent, name, mode=0o644)
        opened = files.open_file(
            home,
            fd,
            home.treatment(path, fd),
            writable=True,
            place=lambda: (home.fd, parent, name),
            name=path,
        )
        for offset, piece in pieces.items():
            opened.write(offset, piece)
        opened.truncate(length)
        opened.sync(data_only=False)
        opened.flush()
        opened.close()
    finally:
        os.close(parent)


def give_second_key(home: Home) -> None:
    """A home without files; any of its keys opens what comes."""
    record = home.standing().record
    assert record is not None
    home.store(replace(record, keys=(*record.keys, home.volume.keys.new_key())))


def give_integrity(home: Home) -> None:
    """A home without files; what comes has tags."""
    record = home.standing().record
    assert record is not None
    home.store(replace(record, integrity=True))


def fill(volume: Volume, keys: LocalKeys) -> None:
    for name, contents in HOMES.items():
        home = volume.make_home(name, 0o755) if name else volume.root
        if name in ("db01", "plain01"):
            lifecycle.decrypt(volume, name)
        if name == "web01":
            give_second_key(home)
        if name == "safe01":
            give_integrity(home)
        for path, file in contents.items():
            put(home, path, file)
    lifecycle.encrypt(volume, "db01", thick=True)
    recrypt.recrypt(volume, "db01")
    fd = os.open(Path(volume.path) / "db01" / "db01-flat.vmdk", os.O_RDWR)
    try:
        with Secret(RECOVERY_PASSPHRASE) as passphrase:
            recovery.add_slot(fd, keys, passphrase)
    finally:
        os.close(fd)


def make(out: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["IOFLT_HOME"] = scratch
        top = Path(scratch) / "ds"
        with LocalKeys(Path(scratch)) as keys:
            Volume.init(top, HomeState.ENCRYPTED, keys)
            with Volume.open(top, keys) as volume:
                fill(volume, keys)
        with Secret(BACKUP_PASSPHRASE) as passphrase:
            backup = NativeStore(find().providers).backup(LOCAL, passphrase)
        for path in (top, *top.rglob("*")):
            os.utime(path, (TIME, TIME), follow_symlinks=False)
        out.mkdir(parents=True)
        golden_common.pack(Path(scratch), "ds", out / "datastore.tar.xz")
    (out / "provider.backup").write_bytes(backup)
    listed = (
        f"{hashlib.sha256(plaintext(file)).hexdigest()}  {Path(home) / path}\n"
        for home, contents in HOMES.items()
        for path, file in contents.items()
    )
    golden_common.close(out, "".join(listed), README)


if __name__ == "__main__":
    sys.exit(golden_common.main("a golden datastore", OUT, make))
