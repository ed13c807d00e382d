"""What is not encrypted, and why: looked for before a VM that is clear becomes an encrypted one.

As in vSphere 6.5 an RDM and a disk that several VMs write to are not supported, and no disk is encrypted in a
VM that is clear. Nor is the VM encrypted that the keys themselves come from, which somebody has to mark.
Output of serial and parallel ports is only warned of.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from ioflt.datastore import files, regular
from ioflt.datastore.header import read_header
from ioflt.datastore.home import Home
from ioflt.datastore.standing import is_private
from ioflt.errors import CorruptDataError, MalformedError, UsageError
from ioflt.format import dictionary
from ioflt.format.record.record import HomeRecord
from ioflt.format.vmdk import descriptor, rawdevice
from ioflt.format.vmx import devices

_log = logging.getLogger(__name__)

#: In the log record of such a warning: the VMX file, and what its port does.
PORT_OF: Final = "port_of"

_PORT = "that output is encrypted only in a file of this VM, written through a mount"


@dataclass(slots=True)
class Found:
    """What is in a directory with a VM whose files are clear; paths below it, each with a word on it.

    `raw`: descriptors of raw devices. `shared`: disks of several writers. `encrypted`: parts of disks that
    are containers. `ports`: VMX files with a port whose output goes to a file.
    """

    raw: list[tuple[str, str]] = field(default_factory=list)
    shared: list[tuple[str, str]] = field(default_factory=list)
    encrypted: list[str] = field(default_factory=list)
    ports: list[tuple[str, str]] = field(default_factory=list)


def look(top_fd: int) -> Found:
    """All of it. Raises OSError."""
    found = Found()
    for directory, path, dir_fd in _candidates(top_fd):
        data = _text(dir_fd, path)
        if path.lower().endswith(".vmx"):
            _look_at_vmx(found, directory, path, dir_fd, data)
        elif descriptor.is_descriptor(data[:64]):
            _look_at_disk(found, directory, path, dir_fd, data)
    return found


def check(top_fd: int, where: str, *, encrypts: bool) -> None:
    """Raises UsageError for the first thing in a clear VM that keeps it from being encrypted; if it is not to
    be, for an encrypted disk in it. Ports are warned of. `where`: what the directory is called.
    """
    found = look(top_fd)
    for path in found.encrypted:
        raise UsageError("encrypted disk in a clear VM", file=os.path.join(where, path))
    if not encrypts:
        return
    for path, kind in found.raw:
        raise UsageError(
            f"RDM: what is on a raw device cannot be encrypted ({kind})", file=os.path.join(where, path)
        )
    for path, device in found.shared:
        raise UsageError(
            f"multi-writer: several VMs write to this disk, and only one can encrypt it ({device})",
            file=os.path.join(where, path),
        )
    for path, port in found.ports:
        told = {PORT_OF: (os.path.join(where, path), port)}
        _log.warning("%s/%s: %s; %s", where, path, port, _PORT, extra=told)


def check_home(home: Home, record: HomeRecord, *, force: bool = False) -> None:
    """The same for a clear home that is to be encrypted; without `force` also UsageError if it is marked."""
    if not force and record.home_id in home.volume.keys.key_holders():
        raise UsageError(
            "marked as the VM that the keys come from: encrypted, it could not start without itself"
        )
    check(home.fd, regular.full_path(home), encrypts=True)


def _candidates(top_fd: int) -> Iterator[tuple[str, str, int]]:
    """Small files that may say something: directory, path, and a descriptor of that directory."""
    for root, below, names, dir_fd in os.fwalk(".", dir_fd=top_fd):
        below.sort()
        if root == ".":
            below[:] = [name for name in below if not is_private(name)]
        directory = os.path.normpath(root)
        for name in sorted(names):
            if name.lower().endswith((".vmx", ".vmdk")):
                yield directory, os.path.normpath(os.path.join(directory, name)), dir_fd


def _text(dir_fd: int, path: str) -> bytes:
    """The file, as far as it may be a text; nothing of what is longer, or no regular file."""
    limit = max(dictionary.MAX_SIZE, descriptor.MAX_SIZE)
    with suppress(MalformedError, OSError):  # whoever converts or copies it tells what is wrong
        fd = files.open_regular(dir_fd, os.path.basename(path), os.O_RDONLY)
        try:
            if os.fstat(fd).st_size <= limit:
                return os.pread(fd, limit, 0)
        finally:
            os.close(fd)
    return b""


def _look_at_vmx(found: Found, directory: str, path: str, dir_fd: int, data: bytes) -> None:
    config = dictionary.parse(data)
    for device, name in devices.shared_by_writers(config):
        found.shared.append((os.path.normpath(os.path.join(directory, name)), f"{device} in {path}"))
    for port, name in devices.ports_to_files(config):
        found.ports.append((path, f"{port} writes to the file {name!r}"))
    _look_at_parts(found, directory, dir_fd, [name for _, name in devices.drives(config)])


def _look_at_disk(found: Found, directory: str, path: str, dir_fd: int, data: bytes) -> None:
    if (kind := rawdevice.kind(data)) is not None:
        found.raw.append((path, kind))
        return
    with suppress(CorruptDataError):
        _look_at_parts(found, directory, dir_fd, list(descriptor.parse(data).file_names))


def _look_at_parts(found: Found, directory: str, dir_fd: int, names: list[str]) -> None:
    """Files that lie beside it and are containers of ours: what a guest encrypts for itself is none."""
    for name in names:
        if "/" in name or name in ("", ".", ".."):
            continue
        path = os.path.normpath(os.path.join(directory, name))
        with suppress(CorruptDataError, OSError):
            fd = files.open_regular(dir_fd, name, os.O_RDONLY)
            try:
                read_header(fd)
            finally:
                os.close(fd)
            if path not in found.encrypted:
                found.encrypted.append(path)
