"""What a VM's home has, as a backup sees it: disks, what belongs to them, and everything else.

A disk is what the VMX attaches, and each descriptor or image that no other one names as its parent or extent.
Its extents and parents are read through it, and are no files of their own.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from ioflt import syscalls
from ioflt.datastore import layers, regular, tree
from ioflt.datastore.disks import Disk
from ioflt.datastore.home import Home
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.standing import is_private
from ioflt.datastore.tree import HomeSide, Side
from ioflt.errors import CorruptDataError, UnsupportedError
from ioflt.format import dictionary
from ioflt.format.dictionary import Dictionary
from ioflt.format.manifest.model import MAX_TEXT, Form
from ioflt.format.qcow2 import header as qcow2
from ioflt.format.vmdk import descriptor, sparse
from ioflt.format.vmdk.descriptor import Descriptor
from ioflt.format.vmx.attached import attached

#: How the fleecing images are called that a backup of a running VM leaves if it is killed.
FLEECE: Final = "ioflt-fleece-"

_RAW: Final = (".raw", ".img")
_QCOW2: Final = b"QFI\xfb"


@dataclass(frozen=True, slots=True)
class FoundDisk:
    """`names`: the files that it names, as paths; `ddb` of a VMDK's descriptor."""

    path: str
    form: Form
    names: frozenset[str] = frozenset()
    ddb: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HomeFiles:
    """All of a home, sorted by path. `parts`: what belongs to the disks, beside their own files.
    `notes`: what of the disks a guest does not see, in words.
    """

    disks: list[FoundDisk]
    parts: set[str]
    files: list[str]
    directories: list[str]
    links: dict[str, str]
    notes: list[str]


def look(home: Home) -> HomeFiles:
    """Raises UnsupportedError "not a regular file", "symlink leads out"; KeyUnavailableError, StorageError;
    CorruptDataError for a disk that is not whole.
    """
    side = HomeSide(home)
    files, directories, links = _walk(home)
    attachments: set[str] = set()
    for path in files:
        if path.lower().endswith(".vmx"):
            attachments |= _attached(home, side, path)
    found = {path: disk for path in files if (disk := _disk(home, side, path, attachments)) is not None}
    named = {name for disk in found.values() if disk.form == "vmdk" for name in disk.names}
    # A guest's bytes may look like an image: what a descriptor names is an extent or a parent.
    for path in [path for path, disk in found.items() if path in named and disk.form != "vmdk"]:
        del found[path]
    for disk in found.values():
        if disk.form == "qcow2":
            named |= disk.names
    disks = [disk for path, disk in sorted(found.items()) if path not in named or path in attachments]
    parts, notes = _read_through(home, side, disks)
    own = {disk.path for disk in disks}
    rest = [path for path in files if path not in parts and path not in own]
    return HomeFiles(disks, parts - own, rest, directories, links, notes)


def is_fleece(path: str) -> bool:
    """Whether a file is no part of the VM, but what a backup of it made."""
    name = os.path.basename(path)
    return name.startswith(FLEECE) and name.endswith(".qcow2")


def _walk(home: Home) -> tuple[list[str], list[str], dict[str, str]]:
    files: list[str] = []
    directories: list[str] = []
    links: dict[str, str] = {}
    with regular.named(home):
        for root, below, names, fd in regular.directories(home):
            names = [name for name in names if not is_fleece(name)]
            if root == ".":
                below[:] = [name for name in below if not is_private(name)]
                names = [name for name in names if not is_private(name)]
            for name in [*below, *names]:
                path = os.path.normpath(os.path.join(root, name))
                with regular.named(home, path), suppress(FileNotFoundError):
                    mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
                    if stat.S_ISREG(mode):
                        files.append(path)
                    elif stat.S_ISDIR(mode):
                        directories.append(path)
                    elif stat.S_ISLNK(mode):
                        links[path] = tree.inner_link(fd, path)
                    else:
                        raise UnsupportedError("not a regular file")
    return sorted(files), sorted(directories), dict(sorted(links.items()))


def _attached(home: Home, side: Side, path: str) -> set[str]:
    """Paths of the disks that a VMX attaches; none of one that cannot be read, which is kept as it is."""
    with _opened(home, side, path) as file:
        try:
            text: Dictionary = dictionary.parse(bytes(file.read(0, dictionary.MAX_SIZE + 1)))
            return {os.path.join(os.path.dirname(path), name) for name in attached(text)}
        except CorruptDataError:
            return set()


def _disk(home: Home, side: Side, path: str, attachments: set[str]) -> FoundDisk | None:
    """The disk in that file, if it looks like one."""
    lower = path.lower()
    known = lower.endswith((".vmdk", ".qcow2", *_RAW))
    if lower.endswith(".vmx") or not (known or path in attachments):
        return None
    with _opened(home, side, path) as file:
        start = bytes(file.read(0, sparse.PROBE_SIZE))
        if lower.endswith(".vmdk"):
            if layers.is_raw(path) or (descriptor.is_descriptor(start) and file.length > descriptor.MAX_SIZE):
                return None  # an extent, whatever a guest wrote to its start
            text = bytes(file.read(0, descriptor.MAX_SIZE)) if descriptor.is_descriptor(start) else start
            return _vmdk(path, text)
        if start.startswith(_QCOW2) and not layers.is_raw(path):
            backing = qcow2.parse(bytes(file.read(0, qcow2.MAX_SIZE))).backing
            names = {os.path.join(os.path.dirname(path), backing)} if backing else set()
            return FoundDisk(path, "qcow2", frozenset(names))
        return FoundDisk(path, "raw") if file.length and file.length % 512 == 0 else None


def _vmdk(path: str, start: bytes) -> FoundDisk | None:
    embedded = start[:4] == sparse.MAGIC
    text = sparse.descriptor_of(start)
    if text is None:
        return None
    parsed: Descriptor = descriptor.parse(text, None if embedded else os.path.basename(path))
    names = {parsed.parent_file_name_hint, parsed.change_track_path} if embedded else {*parsed.file_names}
    beside = {os.path.join(os.path.dirname(path), name) for name in names if name is not None}
    ddb = {key: value for key, value in parsed.ddb.items() if max(len(key), len(value)) <= MAX_TEXT}
    return FoundDisk(path, "vmdk", frozenset(beside - {path}), ddb)


def _read_through(home: Home, side: Side, disks: list[FoundDisk]) -> tuple[set[str], list[str]]:
    """The files that the disks are made of, as they are read: whatever else names them, nothing is missed.
    And what a reader of the disks does not get of them.
    """
    where = regular.full_path(home)
    reached, unread = set[str](), dict[str, str]()
    for disk in disks:
        with regular.named(home, disk.path), Disk(side, home.fd, disk.path, where=where) as opened:
            reached.update(opened.files)
            unread |= opened.unread
    return reached, [f"{path}: its {what} are not in the backup" for path, what in sorted(unread.items())]


@contextmanager
def _opened(home: Home, side: Side, path: str) -> Iterator[OpenFile]:
    """The file, which errors of the block name."""
    with regular.named(home, path):
        fd = syscalls.open_beneath(home.fd, os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            with tree.opened(side, fd, path) as file:
                yield file
        finally:
            os.close(fd)
