"""A VM as a hypervisor keeps it, whose disk holds a file system with known files."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

#: Of the disk, the first MiB of which is before its one partition.
SIZE = 96 << 20
_PARTITION = 1 << 20

HOSTNAME = "web01"
_OS_RELEASE = (
    'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n'
)

_DESCRIPTOR = f"""# Disk DescriptorFile
version=1
CID=5e0c2d01
parentCID=ffffffff
createType="vmfs"
RW {SIZE // 512} VMFS "web01-flat.vmdk"
#DDB
ddb.adapterType = "lsilogic"
"""

_VMX = """.encoding = "UTF-8"
displayName = "web01"
scsi0:0.fileName = "web01.vmdk"
"""


def _contents() -> dict[str, bytes]:
    noise = random.Random(5).randbytes
    return {
        "etc/hostname": f"{HOSTNAME}\n".encode(),
        "etc/os-release": _OS_RELEASE.encode(),
        "etc/debian_version": b"12.5\n",
        **{f"var/lib/app/{number}": noise(300_000 * (number + 1)) for number in range(5)},
        "var/log/messages": b"".join(b"line %d\n" % number for number in range(100_000)),
    }


#: SHA-256 of the files of the guest, by their paths in it.
CHECKSUMS = {path: hashlib.sha256(data).hexdigest() for path, data in _contents().items()}


def make_disk(path: Path) -> None:
    """A sparse raw disk with a partition table, and an ext4 file system in its partition."""
    root = path.with_suffix(".root")
    for name, data in _contents().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    path.touch()
    os.truncate(path, SIZE)
    blocks = str((SIZE - _PARTITION) // 4096)
    options = ("-b", "4096", "-E", f"offset={_PARTITION},root_owner=0:0", "-d", root)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", *options, path, blocks], check=True)
    shutil.rmtree(root)
    entry = struct.pack("<B3xB3xII", 0x80, 0x83, _PARTITION // 512, (SIZE - _PARTITION) // 512)
    with path.open("r+b") as file:
        file.seek(446)
        file.write(entry + bytes(48) + b"\x55\xaa")


def make_vm(home: Path, disk: Path) -> None:
    """The files of the VM, of which the log is the youngest, in a new directory."""
    home.mkdir()
    (home / "web01.vmx").write_text(_VMX)
    (home / "web01.vmdk").write_text(_DESCRIPTOR)
    subprocess.run(["cp", "--sparse=always", disk, home / "web01-flat.vmdk"], check=True)
    (home / "web01.nvram").write_bytes(b"MRVN" + bytes(8000))
    (home / "vmware.log").write_text("powered off\n")
