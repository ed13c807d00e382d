"""A VM as a hypervisor keeps it, whose disk holds a file system with known files."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

#: Bytes of the disk. Its one partition begins where that of others does.
SIZE: Final = 96 << 20
_PARTITION: Final = 1 << 20

NAME: Final = "web01"

#: The disk's descriptor, and the one extent that it names: byte n of the disk is byte n of that file.
DISK: Final = "web01.vmdk"
EXTENT: Final = "web01-flat.vmdk"

_OS_RELEASE = """PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
ID=debian
"""

_DESCRIPTOR = f"""# Disk DescriptorFile
version=1
CID=5e0c2d01
parentCID=ffffffff
createType="vmfs"
RW {SIZE // 512} VMFS "{EXTENT}"
#DDB
ddb.adapterType = "lsilogic"
"""

_VMX = f""".encoding = "UTF-8"
displayName = "{NAME}"
scsi0:0.fileName = "{DISK}"
"""


def contents() -> dict[str, bytes]:
    """The files of the guest by their paths in it: the same on every machine."""
    noise = random.Random(5).randbytes  # noqa: S311 # known bytes are what is wanted
    return {
        "etc/hostname": f"{NAME}\n".encode(),
        "etc/os-release": _OS_RELEASE.encode(),
        "etc/debian_version": b"12.5\n",
        **{f"var/lib/app/{number}": noise(300_000 * (number + 1)) for number in range(5)},
        "var/log/messages": b"".join(b"line %d\n" % number for number in range(100_000)),
    }


def checksums() -> dict[str, str]:
    """SHA-256 of each of those files."""
    return {path: hashlib.sha256(data).hexdigest() for path, data in contents().items()}


def sha256(path: Path) -> str:
    """Of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_disk(path: Path) -> None:
    """A sparse raw disk with a partition table, and an ext4 file system in its partition."""
    root = path.with_suffix(".root")
    for name, data in contents().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    path.touch()
    os.truncate(path, SIZE)
    options: tuple[str | Path, ...] = ("-b", "4096", "-E", f"offset={_PARTITION},root_owner=0:0", "-d", root)
    blocks = str((SIZE - _PARTITION) // 4096)
    make = ["mke2fs", "-q", "-F", "-t", "ext4", *options, path, blocks]
    subprocess.run(make, check=True, env=os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"})
    shutil.rmtree(root)
    entry = struct.pack("<B3xB3xII", 0x80, 0x83, _PARTITION // 512, (SIZE - _PARTITION) // 512)
    with path.open("r+b") as file:
        file.seek(446)
        file.write(entry + bytes(48) + b"\x55\xaa")


def make_vm(home: Path, disk: Path) -> None:
    """The files of the VM, of which the log is the youngest, in a new directory."""
    home.mkdir()
    (home / f"{NAME}.vmx").write_text(_VMX)
    (home / DISK).write_text(_DESCRIPTOR)
    subprocess.run(["cp", "--sparse=always", disk, home / EXTENT], check=True)
    (home / f"{NAME}.nvram").write_bytes(b"MRVN" + bytes(8000))
    (home / "vmware.log").write_text("powered off\n")
