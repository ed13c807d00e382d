"""VMs brought into a datastore and out of it: OVAs and directories.

What comes in is stored as its policy says, else the datastore's, from its first byte on; nothing is written
anywhere else. What goes out is plaintext, outside the datastore, and appears whole or not at all.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

from ioflt import syscalls
from ioflt.crypto.rng import random_bytes
from ioflt.datastore import guards, policies, tree
from ioflt.datastore.container import Progress
from ioflt.datastore.disks import Disk, naming
from ioflt.datastore.files import COPY_CHUNK
from ioflt.datastore.home import Home
from ioflt.datastore.newhome import new_home
from ioflt.datastore.ova import OvaWriter
from ioflt.datastore.package import Package
from ioflt.datastore.standing import is_private
from ioflt.datastore.tree import HomeSide, HostSide
from ioflt.datastore.volume import Volume
from ioflt.errors import (
    ExistsError,
    MalformedError,
    NotFoundError,
    StorageError,
    UnsupportedError,
    UsageError,
)
from ioflt.format import dictionary
from ioflt.format.dictionary import Dictionary
from ioflt.format.ovf import model, vmx, writer
from ioflt.format.ovf.model import File
from ioflt.format.vmdk import descriptor, sparse
from ioflt.format.vmdk.compose import compose
from ioflt.format.vmdk.descriptor import NO_PARENT
from ioflt.format.vmdk.stream import MAX_GRAIN, StreamReader, StreamWriter
from ioflt.format.vmx import attached as attachments
from ioflt.policy.model import StoragePolicy

#: Longest name in an export, bytes: that of a member must fit into a tar header.
_MAX_STEM: Final = 60

_ZEROS: Final = bytes(MAX_GRAIN)
_ADAPTERS: Final = frozenset({"ide", "lsilogic", "buslogic", "legacyESX", "pvscsi"})
_COPIED: Final = frozenset({".vmdk", ".vhd", ".vhdx", ".vdi", ".qcow2", ".raw", ".img"})
_DRAFT: Final = ".part"


@dataclass(frozen=True, slots=True)
class Imported:
    """`files` are the new home's, `left_out` files of the package that are no disks."""

    home: str
    state: str
    files: list[str]
    left_out: list[str]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and what is in it."""

    path: str
    files: list[str]


# Import


def import_package(
    volume: Volume,
    path: str | os.PathLike[str],
    name: str | None = None,
    progress: Progress | None = None,
    *,
    policy: StoragePolicy | None = None,
    integrity: bool = False,
) -> Imported:
    """Bring in FILE.ova or FILE.ovf as the home `name` (else the file's name without its ending).

    Each streamOptimized disk becomes a thin flat one, as ESXi does; other disks are copied as they are.
    Raises ExistsError, UsageError for the name; CorruptDataError for the package; AuthenticationError
    "digest does not verify"; StorageError. Then the new home is gone again.
    """
    name = name or os.path.splitext(os.path.basename(path))[0]
    with (
        _storage(path),
        naming(os.fspath(path)),
        Package(path) as package,
        new_home(volume, name, policy=policy, integrity=integrity) as home,
    ):
        side = HomeSide(home)
        envelope = package.envelope
        made: dict[str, str] = {}
        wanted = {attachment.disk_id for attachment in envelope.hardware.attachments}
        for disk in envelope.disks:
            if disk.id in wanted:
                stem = f"{name}_{len(made)}" if made else name
                made[disk.id] = _import_disk(package, disk, home, side, stem, progress)
        left_out = [file.href for file in package.left_out()]
        package.verify()
        text = vmx.vmx_of(envelope, made)
        with tree.created(side, home.fd, f"{name}.vmx") as file:
            file.write(0, text)
        return _imported(home, left_out)


def import_directory(
    volume: Volume,
    path: str | os.PathLike[str],
    name: str | None = None,
    progress: Progress | None = None,
    *,
    policy: StoragePolicy | None = None,
    integrity: bool = False,
) -> Imported:
    """Bring in a directory with a VM, file by file; holes, modes, times and inner symlinks are kept.

    Raises as `import_package`; UsageError when the directory is a home already, or holds the datastore.
    """
    name = name or os.path.basename(os.path.abspath(path))
    with _storage(path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _is_inside(volume.fd, fd):
                raise UsageError("holds the datastore", file=path)
            if any(is_private(entry) for entry in os.listdir(fd)):
                raise UsageError("belongs to a datastore; copy it through a mount", file=path)
            record = volume.record
            wanted = policy or policies.default(volume.keys, record, record.default)
            guards.check(fd, os.fspath(path), encrypts=wanted.encrypts)
            with new_home(volume, name, policy=policy, integrity=integrity) as home:
                tree.copy(HostSide(), fd, HomeSide(home), home.fd, progress)
                tree.dress_directory(fd, home.fd)
                return _imported(home, [])
        finally:
            os.close(fd)


def _import_disk(
    package: Package, disk: model.Disk, home: Home, side: HomeSide, stem: str, progress: Progress | None
) -> str:
    """Returns the name of the file that the VMX attaches."""
    capacity = -(-disk.capacity // 512) * 512
    file = package.envelope.file_of(disk)
    if file is None:  # starts empty
        return _make_flat(home, side, stem, capacity, iter(()))
    with naming(file.href):
        blocks = _counted(package.blocks(file), progress)
        first = next(blocks, b"")
        if not first:
            raise MalformedError("truncated", "empty file")
        if first[:2] == b"\x1f\x8b":
            raise UnsupportedError("compressed file", "gzip")
        blocks = chain((first,), blocks)
        if first[:4] == sparse.MAGIC and (header := sparse.parse(first)).stream_optimized:
            if header.capacity * 512 > capacity:
                raise MalformedError("capacity differs", f"{header.capacity * 512}, {capacity} bytes")
            return _make_flat(home, side, stem, capacity, blocks)
        suffix = os.path.splitext(file.href)[1].lower()
        name = stem + (suffix if suffix in _COPIED else ".img")
        with tree.created(side, home.fd, name) as target:
            for block in blocks:
                target.write(target.length, block)
        return name


def _make_flat(home: Home, side: HomeSide, stem: str, capacity: int, stream: Iterator[bytes]) -> str:
    """A thin disk STEM.vmdk with STEM-flat.vmdk; returns its name. Without a `stream` it is empty."""
    flat = f"{stem}-flat.vmdk"
    reader = StreamReader()
    with tree.created(side, home.fd, flat) as target:
        target.truncate(capacity)
        for block in stream:
            for offset, data in reader.feed(block):
                if data != _ZEROS[: len(data)]:
                    target.write(offset, data)
        if reader.header is not None:
            reader.finish()
    adapter = _adapter(reader.descriptor)
    text = compose("vmfs", capacity=capacity, file_name=flat, cid=_new_cid(), adapter=adapter)
    with tree.created(side, home.fd, f"{stem}.vmdk") as target:
        target.write(0, text)
    return f"{stem}.vmdk"


def _adapter(text: bytes | None) -> str:
    """The adapter that a stream's descriptor names; a usual one where it says nothing."""
    if text is None:
        return "lsilogic"
    found = descriptor.parse(text)
    if found.parent_cid != NO_PARENT or found.parent_file_name_hint:
        raise UnsupportedError("has a parent", "a delta disk")
    adapter = found.ddb.get("adapterType", "")
    return adapter if adapter in _ADAPTERS else "lsilogic"


def _imported(home: Home, left_out: list[str]) -> Imported:
    files = sorted(entry for entry in os.listdir(home.fd) if not is_private(entry))
    return Imported(home.name, home.standing().state.value, files, left_out)


def _counted(blocks: Iterator[bytes], progress: Progress | None) -> Iterator[bytes]:
    for block in blocks:
        yield block
        if progress is not None:
            progress(len(block))


# Export


def export_ova(
    volume: Volume, name: str, out: str | os.PathLike[str], progress: Progress | None = None
) -> Exported:
    """Write the powered-off VM as an OVA, decrypted: envelope, SHA256 manifest, streamOptimized disks.

    `progress` counts bytes of the disks' content. Raises ExistsError when `out` is there, UsageError when it
    lies in the datastore, BusyError, NotFoundError; UnsupportedError "has a parent" for a VM with snapshots,
    "unknown disk format"; StorageError.
    """
    with (
        _storage(out),
        _powered_off(volume, name) as home,
        _new_place(volume, out) as place,
        ExitStack() as opened,
    ):
        side = HomeSide(home)
        config = _config(side, home)
        disks = {
            attached: opened.enter_context(Disk(side, home.fd, attached, alone=True))
            for attached in attachments.attached(config)
        }
        stem = name if len(os.fsencode(name)) <= _MAX_STEM and name.isprintable() else "vm"
        hrefs = {attached: f"{stem}-disk{number}.vmdk" for number, attached in enumerate(disks, 1)}
        envelope = _envelope_maker(config, name, disks, hrefs)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(place.draft, flags, 0o600, dir_fd=place.fd)
        try:
            archive = OvaWriter(fd, stem, tuple(hrefs.values()), envelope)
            for attached, disk in disks.items():
                with naming(attached), archive.member(hrefs[attached]) as add:
                    for block in _stream(side, home, disk, hrefs[attached], progress):
                        add(block)
            archive.finish()
            os.fsync(fd)
        finally:
            os.close(fd)
    return Exported(os.fspath(out), archive.names)


def export_directory(
    volume: Volume, name: str, out: str | os.PathLike[str], progress: Progress | None = None
) -> Exported:
    """Write all files of the powered-off VM, decrypted, into the new directory `out`; holes stay holes.

    Raises as `export_ova`; UnsupportedError "symlink leads out", "not a regular file".
    """
    with _storage(out), _powered_off(volume, name) as home, _new_place(volume, out) as place:
        os.mkdir(place.draft, 0o700, dir_fd=place.fd)
        with tree.directory(place.fd, place.draft) as fd:
            copied = tree.copy(HomeSide(home), home.fd, HostSide(), fd, progress)
            tree.dress_directory(home.fd, fd)
    return Exported(os.fspath(out), copied)


def _config(side: HomeSide, home: Home) -> Dictionary:
    """The VM's configuration: NAME.vmx, or the only .vmx there is."""
    names = [entry for entry in os.listdir(home.fd) if entry.lower().endswith(".vmx")]
    own = f"{home.name}.vmx"
    if own in names:
        names = [own]
    if len(names) != 1:
        raise NotFoundError("more than one .vmx" if names else "no .vmx in it", file=home.name)
    with tree.opened(side, home.fd, names[0]) as file, naming(names[0]):
        return dictionary.parse(bytes(file.read(0, dictionary.MAX_SIZE + 1)))


def _envelope_maker(
    config: Dictionary, name: str, disks: Mapping[str, Disk], hrefs: Mapping[str, str]
) -> Callable[[Mapping[str, int]], bytes]:
    def make(sizes: Mapping[str, int]) -> bytes:
        packed = {
            attached: (File(f"file{number}", hrefs[attached], sizes[hrefs[attached]]), disk.capacity)
            for number, (attached, disk) in enumerate(disks.items(), 1)
        }
        envelope = vmx.envelope_of(config, packed)
        return writer.write(replace(envelope, name=envelope.name or name))

    return make


def _stream(side: HomeSide, home: Home, disk: Disk, href: str, progress: Progress | None) -> Iterator[bytes]:
    """The disk as a streamOptimized file; one that is such a file already, as it is."""
    if disk.streamed:
        with tree.opened(side, home.fd, disk.path) as file:
            for offset in range(0, file.length, COPY_CHUNK):
                block = bytes(file.read(offset, COPY_CHUNK))
                yield block
                if progress is not None:
                    progress(len(block))
        return
    text = compose("streamOptimized", capacity=disk.capacity, file_name=href, cid=_new_cid())
    stream = StreamWriter(disk.capacity, text)
    yield stream.start()
    for offset, data in disk.pieces():
        yield stream.write(offset, data)
        if progress is not None:
            progress(len(data))
    yield stream.finish()


def _new_cid() -> int:
    """A random content id; not one of the two that mean "no parent" and "open"."""
    return int.from_bytes(random_bytes(4)) % (NO_PARENT - 1)


@contextmanager
def _powered_off(volume: Volume, name: str) -> Iterator[Home]:
    home = volume.home(name)
    with home.exclusive():
        yield home


@dataclass(frozen=True, slots=True)
class _Place:
    """The directory of what is being made, its name while it is, and that afterwards."""

    fd: int
    draft: str
    name: str


@contextmanager
def _new_place(volume: Volume, out: str | os.PathLike[str]) -> Iterator[_Place]:
    """Where the block makes the draft of `out`, which gets its name when the block ends well."""
    directory, name = os.path.split(os.path.abspath(out))
    if not name:
        raise UsageError("not a name for an export", file=out)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _is_inside(fd, volume.fd):
            raise UsageError("lies in the datastore, and an export is plaintext", file=out)
        if os.path.lexists(out):
            raise ExistsError("is there already", file=out)
        place = _Place(fd, f".{random_bytes(8).hex()}{_DRAFT}", name)
        try:
            yield place
            _publish(place)
        except FileExistsError as error:
            raise ExistsError("is there already", file=out) from error
        finally:
            _remove_draft(place)
        os.fsync(fd)
    finally:
        os.close(fd)


def _publish(place: _Place) -> None:
    try:
        syscalls.renameat2(place.fd, place.draft, place.fd, place.name, syscalls.RENAME_NOREPLACE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # the file system has no such rename: what appeared meanwhile would be replaced, if it is empty
        os.rename(place.draft, place.name, src_dir_fd=place.fd, dst_dir_fd=place.fd)


def _remove_draft(place: _Place) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(place.draft, dir_fd=place.fd, follow_symlinks=False).st_mode):
            shutil.rmtree(place.draft, dir_fd=place.fd)
        else:
            os.unlink(place.draft, dir_fd=place.fd)


def _is_inside(fd: int, top_fd: int) -> bool:
    """Whether the directory `fd` is `top_fd` or below it."""
    top = os.fstat(top_fd)
    path = os.readlink(f"/proc/self/fd/{fd}")
    while True:
        if os.path.samestat(os.stat(path), top):
            return True
        if path == "/":
            return False
        path = os.path.dirname(path)


@contextmanager
def _storage(path: str | os.PathLike[str]) -> Iterator[None]:
    """What a file system refuses in the block is told of as StorageError, except for a missing `path`."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:
        where = error.filename
        if where is None or str(where).endswith(_DRAFT):
            where = path
        raise StorageError("cannot transfer", error.errno or 0, file=where) from error
