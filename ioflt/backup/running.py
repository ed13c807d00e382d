"""The disks of a running VM as they were at one moment, by its QEMU.

A backup job over each disk, all begun in one transaction, copies what the guest is about to overwrite to a
fleecing image; that over the disk is the disk of that moment, which QEMU's own NBD server exports. Fleecing
images hold what the disks held. So they lie beside them, in the same mount, and are encrypted as they are.

Whoever takes a change id for an increment takes it before, and asks for changes afterwards: what is
written in between is in both, and nothing is missed.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

from ioflt import paths
from ioflt.backup import blocknodes, freespace, freeze, mountedfiles, signals
from ioflt.backup.blocknodes import Drive, drives, nodes, nonsense
from ioflt.backup.homefiles import FLEECE, FoundDisk, is_fleece
from ioflt.backup.nbdclient import NbdDisk
from ioflt.backup.qemunames import held
from ioflt.backup.qmp import Monitor, Refused
from ioflt.errors import BusyError, IofltError, NotFoundError, PeerError, StorageError
from ioflt.format.manifest.model import Consistency
from ioflt.format.qcow2.writer import Writer
from ioflt.wire.qmp.messages import Event

_SUFFIX: Final = ".qcow2"

#: Seconds until a job that was told to end has ended.
_END_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Fleece:
    """`name`: of node, job and export; `source`: the node of the disk; `file`: of the image."""

    name: str
    source: str
    file: Path
    size: int


class Running:
    """`consistency`: what can be said of the moment."""

    def __init__(
        self, monitor: Monitor, socket: Path, fleeces: dict[str, _Fleece], consistency: Consistency
    ) -> None:
        self._monitor = monitor
        self._socket = socket
        self._fleeces = fleeces
        self._asking = threading.Lock()
        self._given_up = False
        self.consistency = consistency

    def open(self, disk: str) -> NbdDisk:
        """The disk with that path, as it was at that moment; when it is closed, `check` is called."""
        name = self._fleeces[disk].name
        return _Checked(f"nbd+unix:///{quote(name)}?socket={quote(str(self._socket))}", self.check)

    def check(self) -> None:
        """See that all that was read so far was of that moment. Raises StorageError, PeerError."""
        with self._asking:
            if self._given_up:
                freespace.check(self.directories)
                raise StorageError("there was no room for what the guest overwrote", errno.ENOSPC)
            jobs = _jobs(self._monitor)
        for disk, fleece in self._fleeces.items():
            if jobs.get(fleece.name) != "running":
                what = "what the guest overwrites could not be kept, so this is not the disk of one moment"
                raise PeerError(what, file=disk)

    @property
    def directories(self) -> set[Path]:
        """Where fleecing images are."""
        return {fleece.file.parent for fleece in self._fleeces.values()}

    def give_up(self) -> None:
        """End the jobs, so that the guest goes on. From any thread."""
        with self._asking, suppress(PeerError):  # QEMU is gone, or takes no more commands
            self._given_up = True
            for fleece in self._fleeces.values():
                self._monitor.ask("block-job-cancel", {"device": fleece.name, "force": True})


class _Checked(NbdDisk):
    def __init__(self, uri: str, check: Callable[[], None]) -> None:
        self._check: Callable[[], None] | None = None
        super().__init__(uri)
        self._check = check

    def close(self) -> None:
        super().close()
        check, self._check = self._check, None
        if check is not None:
            check()


@contextmanager
def taken(
    monitor: Monitor, datastore: str, vm: str, disks: Sequence[FoundDisk], agent: Path | None = None
) -> Iterator[Running]:
    """The disks as they are now, while the block runs; nothing of it is left in QEMU or the home afterwards.

    `agent`: the socket of the guest's agent, by which file systems are frozen for the moment. Raises
    NotFoundError where that QEMU has not all of the disks open in a mount of this host; BusyError, PeerError,
    StorageError.
    """
    name = FLEECE + secrets.token_hex(4)
    with held(name):
        directory = paths.find().run / name
        fleeces: dict[str, _Fleece] = {}
        try:
            directory.mkdir(0o700)
            if os.geteuid() == 0:
                os.chown(directory, monitor.peer.uid, monitor.peer.gid)
            for number, (path, drive) in enumerate(_find(monitor, datastore, vm, disks).items()):
                file = Path(drive.file).parent / f"{name}-{number}{_SUFFIX}"
                fleeces[path] = _Fleece(f"{name}-{number}", drive.node, file, drive.size)
            freespace.check(fleece.file.parent for fleece in fleeces.values())
            live = _begin(monitor, directory / "nbd", fleeces, agent)
            with freespace.watched(live.directories, live.give_up):
                yield live
        except BaseException as error:
            try:
                _end_surely(monitor, name, fleeces)
            except IofltError as left:
                error.add_note(f"QEMU may still keep what the guest overwrites: {left}")
            raise
        else:
            _end_surely(monitor, name, fleeces)
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def remove_leftovers(monitor: Monitor, datastore: str, vm: str) -> None:
    """Remove what runs that were killed left in that QEMU, and in the VM's home. Raises PeerError."""
    names = {_run_of(node.name) for node in nodes(monitor) if node.name.startswith(FLEECE)}
    names |= {_run_of(job) for job in _jobs(monitor) if job.startswith(FLEECE)}
    homes = [mount.mountpoint / vm for mount in mountedfiles.mounts() if _same(mount.datastore, datastore)]
    files = [
        Path(top) / each
        for home in homes
        for top, _, found in os.walk(home)
        for each in found
        if is_fleece(each)
    ]
    for name in names | {_run_of(file.name) for file in files}:
        with suppress(BlockingIOError), held(name):  # else its process lives
            _end(monitor, name)
            for file in files:
                if _run_of(file.name) == name:
                    file.unlink(missing_ok=True)
            shutil.rmtree(paths.find().run / name, ignore_errors=True)


def _find(monitor: Monitor, datastore: str, vm: str, disks: Sequence[FoundDisk]) -> dict[str, Drive]:
    """The drive of each disk, by the disk's path."""
    mounts = [mount for mount in mountedfiles.mounts() if _same(mount.datastore, datastore)]
    by_path: dict[str, Drive] = {}
    for drive in drives(monitor):
        place = mountedfiles.locate(drive.file, mounts)
        if place is not None and place.vm == vm:
            by_path[place.path] = replace(drive, file=place.real)  # a link on the way may change
    found = {}
    for disk in disks:
        # What QEMU opens is the descriptor, or the one flat extent of it as a raw disk.
        extent = next(iter(disk.names)) if disk.form == "vmdk" and len(disk.names) == 1 else disk.path
        for path, driver in ((disk.path, disk.form), (extent, "raw")):
            if path in by_path and by_path[path].driver == driver:
                found[disk.path] = by_path[path]
        if disk.path not in found:
            raise NotFoundError(
                f"this QEMU has it not open in a mount of {datastore}",
                file=os.path.join(datastore, vm, disk.path),
            )
    return found


def _begin(monitor: Monitor, socket: Path, fleeces: dict[str, _Fleece], agent: Path | None) -> Running:
    address = {"type": "unix", "data": {"path": str(socket)}}
    try:
        monitor.ask("nbd-server-start", {"addr": address})
    except Refused as error:
        if "already running" in error.description:
            raise BusyError("something else exports disks of this VM now", file=monitor.path) from error
        raise
    actions: list[dict[str, Any]] = []
    for fleece in fleeces.values():
        _make_image(fleece)
        file = {"driver": "file", "filename": str(fleece.file)}
        node = {"driver": "qcow2", "node-name": fleece.name, "file": file, "backing": fleece.source}
        monitor.ask("blockdev-add", node)
        job = {"job-id": fleece.name, "device": fleece.source, "target": fleece.name, "sync": "none"}
        actions.append({"type": "blockdev-backup", "data": job})
    with freeze.frozen(agent) as moment:
        monitor.ask("transaction", {"actions": actions})
    for fleece in fleeces.values():
        export = {"type": "nbd", "id": fleece.name, "node-name": fleece.name, "name": fleece.name}
        monitor.ask("block-export-add", export)
    return Running(monitor, socket, fleeces, moment.consistency)


def _make_image(fleece: _Fleece) -> None:
    """An empty image, for whom the disk is for."""
    try:
        fd = os.open(fleece.file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            Writer(lambda offset, data: os.pwrite(fd, data, offset), fleece.size).finish()
            owner = os.stat(fleece.file.parent)
            if os.geteuid() == 0:
                os.fchown(fd, owner.st_uid, owner.st_gid)
        finally:
            os.close(fd)
    except OSError as error:
        raise StorageError("cannot make a fleecing image", error.errno or 0, file=fleece.file) from error


def _end_surely(monitor: Monitor, name: str, fleeces: dict[str, _Fleece]) -> None:
    """End it, by another connection where this one is of no more use; the images go in any case."""
    try:
        with signals.held_back():
            if not monitor.broken:
                try:
                    return _end(monitor, name)
                except PeerError:
                    if not monitor.broken:
                        raise
            with Monitor(monitor.path) as another:
                return _end(another, name)
    finally:
        for fleece in fleeces.values():
            fleece.file.unlink(missing_ok=True)


def _end(monitor: Monitor, name: str) -> None:
    """Exports, jobs and nodes of that run, in this order; what is not there is no error. Raises PeerError."""
    exports = _exports(monitor)
    if all(_run_of(export) == name for export in exports):  # also when there is none: it was just begun
        with suppress(Refused):
            monitor.ask("nbd-server-stop")
    until = monotonic() + _END_S
    while left := [job for job in _jobs(monitor) if _run_of(job) == name]:
        if monotonic() > until:
            raise PeerError(f"its backup job does not end within {_END_S:g} s", file=monitor.path)
        for job in left:
            with suppress(Refused):  # it is ending
                monitor.ask("block-job-cancel", {"device": job, "force": True})
        monitor.wait_for(lambda event: _is_end_of(event, left), 1.0)
    for node in nodes(monitor):
        if _run_of(node.name) == name:
            blocknodes.remove(monitor, node.name, until)


def _is_end_of(event: Event, jobs: list[str]) -> bool:
    return event.name in ("BLOCK_JOB_CANCELLED", "BLOCK_JOB_COMPLETED") and event.data.get("device") in jobs


def _jobs(monitor: Monitor) -> dict[str, str]:
    """Status by name."""
    found = monitor.ask("query-block-jobs")
    if not isinstance(found, list) or not all(isinstance(job, dict) for job in found):
        raise nonsense(monitor, "its jobs")
    return {str(job.get("device")): str(job.get("status")) for job in found}


def _exports(monitor: Monitor) -> list[str]:
    """Ids of what its NBD server exports."""
    found = monitor.ask("query-block-exports")
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise nonsense(monitor, "its exports")
    return [str(each.get("id")) for each in found if each.get("type") == "nbd"]


def _run_of(name: str) -> str:
    """The name of the run that something is of."""
    return name[: len(FLEECE) + 8]


def _same(one: Path, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
