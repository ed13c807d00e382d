"""One point in time of a VM, put into a destination. What goes wrong on the way leaves no point."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from ioflt.backup import direct, hotadd, images, increments, running, sealing
from ioflt.backup.disk import Area, VirtualDisk
from ioflt.backup.homefiles import FoundDisk
from ioflt.backup.images import Chain
from ioflt.backup.qmp import Monitor
from ioflt.backup.quiet import Quiet, quiet, writers
from ioflt.backup.repository import Repository
from ioflt.backup.sealing import Signer
from ioflt.backup.settling import Settled
from ioflt.backup.shelf import TIME, Shelf
from ioflt.backup.sources import Live, Plain, Source, Stored, Tracked
from ioflt.backup.writers import Watcher
from ioflt.datastore import clone, regular
from ioflt.datastore.container import Progress
from ioflt.datastore.home import Home
from ioflt.datastore.volume import Volume
from ioflt.errors import BusyError, CorruptDataError, IofltError, MalformedError, UsageError
from ioflt.format.manifest import text
from ioflt.format.manifest.model import MAX_TEXT, Consistency, Disk, Key, Kind, Manifest
from ioflt.format.record.record import HomeRecord
from ioflt.types import KeyRef


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a backup is to be made. `qmp`: of the QEMU that runs the VM; `agent`: of the agent in the guest."""

    incremental: bool = False
    transport: str = "file"
    qmp: Path | None = None
    agent: Path | None = None


#: How much later than now a point may be called without a word: several in a second are one behind the other.
_AHEAD: Final = timedelta(minutes=1)


class Keyd(Signer, Watcher, Protocol):
    """What a backup asks of keyd: a signature, and of mounts of a VM that runs what they tell nobody else."""


class Moment(Protocol):
    """As of which the point is. `check` sees that all that was read so far was of it. Raises BusyError,
    PeerError, StorageError.
    """

    @property
    def consistency(self) -> Consistency: ...

    def check(self) -> None: ...


#: Told of a point, and of the keys of its VM, before it is made.
Told: TypeAlias = Callable[[str, tuple[KeyRef, ...]], AbstractContextManager[None]]


def _untold(_point: str, _keys: tuple[KeyRef, ...]) -> AbstractContextManager[None]:
    return nullcontext()


def run(
    volume: Volume,
    vm: str,
    repository: Repository,
    wanted: Wanted,
    keyd: Keyd,
    told: Told = _untold,
    progress: Progress | None = None,
    key: str | None = None,
) -> Manifest:
    """Back up a VM; the manifest of the new point. Its name and the VM's keys are `told` before it is made.
    `key`: who signed what an increment may build on, in PEM; None: anybody.

    Raises BusyError, ReadOnlyError for a VM whose record is not valid, UsageError, KeyUnavailableError,
    DeniedError, CorruptDataError, StorageError; then there is no new point.
    """
    if os.path.samefile(volume.path, repository.path):
        raise UsageError("is the VM's own datastore", file=repository.path)
    home = volume.home(vm)
    with (
        regular.named(home),
        _sources(volume, home, repository.kind, wanted, keyd) as (record, source, moment),
    ):
        notes = list(source.notes)
        if repository.kind == "ciphertext":
            notes += [f"{path}: is clear in the VM, and so it is here" for path in record.clear_files]
        made = repository.make_shelf(vm)
        try:
            with repository.shelf(vm) as shelf, shelf.alone():
                shelf.check_backups()
                job = _Job(home, record, source, shelf, moment, repository.kind, notes, progress, key)
                return job.run(incremental=wanted.incremental, signer=keyd, told=told)
        except BaseException:  # also after Ctrl-C: no shelf stays that has no point
            if made:
                with suppress(IofltError, OSError):  # what went wrong is said in any case
                    repository.remove_shelf(vm)
            raise


def ask(volume: Volume, vm: str, place: str | os.PathLike[str], wanted: Wanted, signer: Signer) -> None:
    """Whether a backup of the VM there could be made, and would be signed: before anything is made.

    Raises NotFoundError for no such VM, DeniedError, UsageError for its transport, NotListening.
    """
    home = volume.home(vm)
    if wanted.transport == "san":
        direct.check_san(home)
    elif wanted.transport == "hotadd":
        hotadd.refuse(volume, vm, "")
    if wanted.qmp is not None:
        Monitor(wanted.qmp).close()
    record = home.unverified().record
    if record is not None:  # else nothing is backed up
        signer.may_sign(sealing.about(os.path.join(os.path.abspath(place), vm), vm, record.home_id))


@contextmanager
def _sources(
    volume: Volume, home: Home, kind: Kind, wanted: Wanted, keyd: Watcher
) -> Iterator[tuple[HomeRecord, Source, Moment]]:
    """What is read of the VM; but for `Settled` it does not change while the block runs, which `Moment.check`
    sees.
    """
    if wanted.qmp is not None:
        with Monitor(wanted.qmp) as monitor:
            running.remove_leftovers(monitor, volume.path, home.name)
            with home.shared():
                record, found = clone.sound(home), Plain(volume, home, wanted.transport)
                taken = {disk.path: found.take(disk) for disk in found.disks}
                with running.taken(monitor, volume.path, home.name, found.disks, wanted.agent) as live:
                    yield record, Live(home, found, taken, live), live
        return
    if kind == "ciphertext":
        with writers(home, keyd) as used:
            if used is not None:
                with Settled(home, used) as settled:
                    yield settled.record(), settled, settled
            else:
                stored = Stored(home)
                yield stored.record(), stored, Quiet("powered off", None)
        return
    with quiet(home) as moment:
        yield clone.sound(home), Plain(volume, home, wanted.transport), moment


class _Job:
    """One point in the making."""

    def __init__(
        self,
        home: Home,
        record: HomeRecord,
        source: Source,
        shelf: Shelf,
        moment: Moment,
        kind: Kind,
        notes: list[str],
        progress: Progress | None,
        key: str | None,
    ) -> None:
        self._home = home
        self._record = record
        self._source = source
        self._shelf = shelf
        self._moment = moment
        self._kind: Kind = kind
        self._progress = progress
        self._key = key
        self._notes = [note[:MAX_TEXT] for note in notes]
        self._known: dict[str, Manifest] = {}

    def run(self, *, incremental: bool, signer: Signer, told: Told) -> Manifest:
        points = self._shelf.points()
        point = _now(points)
        if datetime.strptime(point, TIME).replace(tzinfo=UTC) > datetime.now(UTC) + _AHEAD:
            self._note("its name is later than this machine's clock: there is a backup of a later time")
        about = sealing.about(self._shelf.path, self._home.name, self._record.home_id, point)
        parent = self._parent(points) if incremental else None
        with told(point, self._record.keys), self._shelf.making(point) as draft:
            if isinstance(self._source, Settled):
                self._source.settle(
                    self._shelf, lambda disk, source: self._areas(disk, parent, source, Tracked())
                )
            disks = tuple(self._disk(disk, draft, parent) for disk in self._source.disks)
            files = tuple(
                self._source.keep(path, self._shelf, draft, self._progress) for path in self._source.files
            )
            self._moment.check()
            frame = self._source.frame()
            record = self._record
            # Nobody has a file open, and yet: headers of before and a record of after would open nothing.
            if isinstance(self._source, Stored) and self._source.record() != record:
                raise BusyError("its keys were changed meanwhile", file=self._home.name)
            manifest = Manifest(
                vm=self._home.name,
                point=point,
                kind=self._kind,
                home_id=record.home_id,
                state=record.state.value,
                policy=record.policy,
                thick=record.thick,
                integrity=record.integrity,
                keys=tuple(Key(key.provider, key.key_id) for key in record.keys),
                host=socket.gethostname()[:1024],
                by=_who(),
                transport=self._source.transport,
                consistency=self._moment.consistency,
                notes=tuple(self._notes),
                top=frame.top,
                disks=disks,
                files=files,
                directories=frame.directories,
                links=frame.links,
            )
            written = sealing.signed(manifest, signer, about)
            text.parse(written)  # what cannot be read again is no backup
            with self._shelf.created(f"{draft}/{text.NAME}") as file:
                file.write(0, written)
        return manifest

    def _parent(self, points: list[str]) -> Manifest | None:
        """The newest point, if an increment can build on it."""
        if not points:
            self._note("full: it is the first backup of this VM here")
            return None
        try:
            document = self._shelf.document(points[-1])
            sealing.check(document, self._key)
        except CorruptDataError as error:
            self._note(f"full: the newest backup is not one to build on: {error.message}")
            return None
        found = document.manifest
        if found.home_id != self._record.home_id:
            self._note("full: the newest backup here is of another VM that had this name")
            return None
        return found

    def _disk(self, disk: FoundDisk, draft: str, parent: Manifest | None) -> Disk:
        image = text.image_of(disk.path)
        info = self._source.info(disk.path)
        before = _before(disk, parent)
        tracked = self._source.tracked(disk, None if before is None else before.change_id)
        if tracked.lost:
            self._note(f"{disk.path}: full, as what changed since the backup before is not known any more")
        with self._source.open(disk) as source:
            areas = None if tracked.lost else self._areas(disk, parent, source, tracked)
            if areas is None or parent is None:
                parent, backing, wanted = None, None, source.areas()
            else:
                backing, wanted = f"../{parent.point}/{image}", iter(areas)
            stored = images.write(self._shelf, f"{draft}/{image}", source, wanted, backing, self._progress)
            capacity = info.st_size if disk.form == "container" else source.capacity
        return Disk(
            path=disk.path,
            form=disk.form,
            capacity=capacity,
            image=image,
            parent=None if parent is None else parent.point,
            stored=stored.size,
            sha256=stored.sha256,
            content=stored.content,
            change_id=tracked.change_id,
            mode=info.st_mode & 0o777,
            uid=info.st_uid,
            gid=info.st_gid,
            mtime=info.st_mtime_ns,
            ddb=disk.ddb,
        )

    def _areas(
        self, disk: FoundDisk, parent: Manifest | None, source: VirtualDisk, tracked: Tracked
    ) -> list[Area] | None:
        """What an increment holds; None where the disk is to be full."""
        chain = self._chain(disk, parent)
        if chain is None:
            return None
        with chain:
            if tracked.areas is not None:
                longer = source.capacity - chain.capacity  # nobody may have written that
                shown = source.areas(chain.capacity, longer) if longer > 0 else ()
                return list(increments.merged([*tracked.areas, *shown]))
            try:
                found = list(increments.changed(source, chain, self._source.always))
            except CorruptDataError as error:  # if it is the VM's own disk, that is said when it is read
                self._note(f"{disk.path}: full, as what is before it cannot be read: {error}")
                return None
        self._note("changes were not tracked: found by comparing with the backup before")
        return found

    def _note(self, told: str) -> None:
        if told not in self._notes:
            self._notes.append(told[:MAX_TEXT])

    def _chain(self, disk: FoundDisk, parent: Manifest | None) -> Chain | None:
        """The disk as of the point that an increment builds on."""
        if parent is None:
            return None
        if all(each.path != disk.path for each in parent.disks):
            self._note(f"{disk.path}: full, the backup before does not have it")
            return None
        try:
            found = images.chain_of(self._shelf, parent, disk.path, self._known, self._key)
            if len(found) >= images.MAX_CHAIN:
                self._note(f"{disk.path}: full, {len(found)} points build on each other already")
                return None
            return Chain(self._shelf, found, disk.path)
        except CorruptDataError as error:
            self._note(f"{disk.path}: full, as what is before it is not whole: {error}")
            return None


def _before(disk: FoundDisk, parent: Manifest | None) -> Disk | None:
    """The same disk in the backup before."""
    return next((each for each in parent.disks if each.path == disk.path), None) if parent else None


def _now(points: list[str]) -> str:
    """The name of a new point: this second, or the next one after the newest."""
    now = datetime.now(UTC)
    if points:
        newest = datetime.strptime(points[-1], TIME).replace(tzinfo=UTC)
        if newest.year == datetime.max.year:
            raise MalformedError("a point that has no later one", points[-1])
        now = max(now, newest + timedelta(seconds=1))
    return now.strftime(TIME)


def _who() -> str:
    try:
        return f"user:{pwd.getpwuid(os.geteuid()).pw_name}"
    except KeyError:
        return f"user:{os.geteuid()}"
