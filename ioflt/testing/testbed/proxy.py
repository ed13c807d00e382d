"""The bed's proxy VM: a QEMU with a disk of its own, into which disks are plugged to be backed up (hot-add).

Nothing is installed in it: the firmware runs, and lets go of what is taken out.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from ioflt.errors import PeerError
from ioflt.testing.testbed.process import Process

NAME: Final = "proxy"
DISK: Final = "proxy.raw"

_VMX: Final = f"""displayName = "{NAME}"
scsi0:0.fileName = "{DISK}"
"""

_START_S: Final = 60.0


def make_vm(home: Path) -> None:
    """Its files, in a new directory."""
    home.mkdir()
    (home / f"{NAME}.vmx").write_text(_VMX)
    with open(home / DISK, "wb") as disk:
        disk.truncate(1 << 20)


def start(disk: Path, monitor: Path) -> Process:
    """Start it with that disk; its QMP socket is at `monitor`. Raises PeerError."""
    number = monitor.with_suffix(".pid")
    command = [
        *("qemu-system-x86_64", "-accel", "tcg", "-m", "64", "-nodefaults", "-no-user-config"),
        *("-display", "none", "-device", "virtio-scsi-pci,id=scsi0"),
        *("-drive", f"file={disk},format=raw,if=none,id=own,cache=none"),
        *("-device", "scsi-hd,drive=own,bus=scsi0.0"),
        *("-qmp", f"unix:{monitor},server=on,wait=off", "-daemonize", "-pidfile", str(number)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_START_S)
    if done.returncode != 0:
        raise PeerError(f"qemu-system-x86_64: {done.stderr.strip()}")
    return Process.of(int(number.read_text()))
