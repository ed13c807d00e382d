"""Advice for virtual disks that cannot be read: their chains, and how they are reached. See `advice`."""

from __future__ import annotations

import errno
import os
import shlex
from typing import Final

from ioflt import errors
from ioflt.cli.key_advice import Row


def _vm(error: errors.IofltError) -> tuple[str, str]:
    """The VM that a stored file is of, and its path there."""
    from ioflt.cli import places

    above = places.datastore_above(error.file or "/")
    if above is None:
        return "DIR/VM", "DISK"
    name, _, path = os.path.relpath(os.path.realpath(error.file or "/"), above).partition("/")
    return shlex.quote(os.path.join(above, name)), shlex.quote(path)


#: Where a socket of somebody's QEMU was named, and nobody listens.
NO_QEMU: Final = (
    "QEMU makes its monitor by -qmp unix:SOCKET,server=on,wait=off, the socket of the guest's agent by"
    " -chardev socket,id=ga,server=on,wait=off,path=SOCKET"
    " -device virtserialport,chardev=ga,name=org.qemu.guest_agent.0"
)

DISKS: tuple[Row, ...] = (
    (errors.BusyError, "^the port is taken", lambda _: "take another one; port 0 is any that is free"),
    (errors.NotFoundError, "^no such disk", lambda error: f"see its files: ioflt vm show {_vm(error)[0]}"),
    (
        errors.NotFoundError,
        "^its changed blocks are not tracked",
        lambda error: f"ioflt cbt enable {' '.join(_vm(error))}",
    ),
    (errors.NotFoundError, "^qemu-nbd is not", lambda _: "install it: apt-get install qemu-utils"),
    (errors.PeerError, "^the mount ended", lambda _: "export again; what is wrong is in mount.log"),
    (
        errors.DeniedError,
        "^san transport",
        lambda _: "read it with the VM's keys, on this machine: --transport file",
    ),
    (
        errors.MalformedError,
        "^CID mismatch",
        lambda _: "nothing was changed; what lies below was written to since: put the file of then back",
    ),
    (
        errors.MalformedError,
        "^missing parent",
        lambda _: "nothing was changed; put the file back where the disk names it",
    ),
    (
        errors.MalformedError,
        "^parents form a ring",
        lambda _: "nothing was changed; put the files back as they were: each names the other as its parent",
    ),
    (
        errors.MalformedError,
        "^marked (dirty|corrupt)",
        lambda _: "nothing was changed; repair it through a mount, with the program that writes it",
    ),
    (
        errors.UnsupportedError,
        "^backing format missing",
        lambda _: "say it, through a mount: qemu-img rebase -u -b BACKING -F FORMAT DISK",
    ),
    (
        errors.UnsupportedError,
        "^no disk of its own",
        lambda _: "name the disk's descriptor, the small file beside it",
    ),
    (
        errors.UsageError,
        "^hotadd gives the disk",
        lambda _: "ioflt backup hotadd plugs it into a proxy VM; here the other transports do",
    ),
    (
        errors.PeerError,
        "it serves one client at a time",
        lambda _: "give that QEMU a monitor of its own for this: -qmp unix:PATH,server=on,wait=off",
    ),
    (
        errors.PeerError,
        f"^QEMU refuses blockdev-add: Failed to connect .*{os.strerror(errno.EACCES)}",
        lambda _: (
            "that QEMU runs as another user: run it as who plugs the disk in; or serve the disk to its user,"
            " a member of the group ioflt, and add it yourself: ioflt backup export DIR/VM DISK --for USER"
        ),
    ),
    (
        errors.DeniedError,
        "^is entered by root alone",
        lambda _: (
            "it is for members of a group: groupadd --system ioflt; usermod -aG ioflt USER; ioflt keyd stop"
        ),
    ),
    (
        errors.DeniedError,
        "^you may not use this socket of QEMU",
        lambda error: f"it is for the user whose QEMU it is, and root: ls -l {shlex.quote(error.file or '')}",
    ),
    (
        errors.NotFoundError,
        "^this QEMU has it not open",
        lambda _: "a running VM's disks are files of a mount, named to QEMU by their paths in it",
    ),
    (
        errors.BusyError,
        "^something else exports disks",
        lambda _: "wait for the other backup; what it left ends by nbd-server-stop in that QEMU's monitor",
    ),
    (
        errors.PeerError,
        "^the guest's file systems may still be frozen",
        lambda _: "in the guest: fsfreeze -u MOUNTPOINT; or virsh domfsthaw",
    ),
    (
        errors.BusyError,
        "its mount holds no writes back",
        lambda _: "a VM that runs in QEMU: --qmp SOCKET",
    ),
)
