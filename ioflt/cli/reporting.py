"""Events of what commands do themselves, to files, where keyd sees nothing of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from ioflt.errors import (
    BusyError,
    CorruptDataError,
    ExistsError,
    IntegrityError,
    IofltError,
    NotFoundError,
    UsageError,
)

if TYPE_CHECKING:
    from ioflt.datastore.check import Entry
    from ioflt.keys.client import KeyClient
    from ioflt.types import KeyRef
    from ioflt.wire.keyd.requests import Report, ReportedThing

#: It makes no sense, or not now.
_REFUSALS: Final = (UsageError, NotFoundError, ExistsError, BusyError)

#: Most findings that one check tells of one by one: with what counts the others they are one batch.
_MAX_FINDINGS: Final = 99

#: Most ports that one command tells of.
_MAX_PORTS: Final = 100

#: A value: its path, before, after; None is unset.
Change: TypeAlias = tuple[str, str | None, str | None]


@dataclass(frozen=True, slots=True)
class About:
    """What a command works on. `clear`: a clear VM, for which no Cryptographer privilege is asked."""

    object: ReportedThing | None
    datastore: ReportedThing | None = None
    clear: bool = False


def vm(directory: str | os.PathLike[str], name: str) -> About:
    """A VM by its name; its id is what its record says, verified or not, empty where there is none."""
    from ioflt.format.record.record import HomeRecord
    from ioflt.types import HomeState

    record = _record(os.path.join(directory, name))
    if not isinstance(record, HomeRecord):
        return About(_thing("vm", "", name), datastore(directory).object)
    clear = record.state is HomeState.CLEAR
    return About(_thing("vm", record.home_id, name), datastore(directory).object, clear)


def datastore(directory: str | os.PathLike[str]) -> About:
    """A datastore, its id as of a VM."""
    from ioflt.format.record.record import DatastoreRecord

    record = _record(directory)
    ident = record.datastore_id if isinstance(record, DatastoreRecord) else ""
    return About(_thing("datastore", ident, os.path.realpath(directory)))


def file(path: str | os.PathLike[str]) -> tuple[About, str]:
    """The VM of a stored file and the file's path in it; without a VM the file's path, of its datastore."""
    from ioflt.cli.places import datastore_above

    real = Path(os.path.realpath(path))
    above = datastore_above(real)
    if above is None:
        return datastore(real.parent), str(real)
    name, *below = real.relative_to(above).parts
    return (vm(above, name), os.path.join(*below)) if below else (datastore(above), name)


def provider(name: str) -> About:
    """A key provider."""
    return About(_thing("provider", name, name))


def key(ref: KeyRef) -> About:
    """A key of a provider."""
    return About(_thing("key", str(ref), str(ref)))


def by_files(name: str, *changes: Change) -> AbstractContextManager[None]:
    """`told` of a provider, where the command changes its files; of what keyd changes that tells itself."""
    from ioflt import paths

    return nullcontext() if paths.find().joined else told(provider(name), *changes)


@contextmanager
def told(about: About, *changes: Change, part: str = "", keys: KeyClient | None = None) -> Iterator[None]:
    """The event log has what the block does before it does it, and once more if that fails.

    `part`: of the table of operations the entry after the command and a colon; without it a clear VM's, where
    there is one. `keys`: a client for this command, where there is one. Raises StorageError when events are
    required and this one cannot be logged.
    """
    report = _report(about, changes, part)
    with _client(keys) as client:
        client.note_events([report])
        try:
            yield
        except (IofltError, OSError, KeyboardInterrupt) as error:
            with suppress(IofltError):  # what went wrong is said in any case
                client.note_events([_failed(report, error)])
            raise


def tell_findings(keys: KeyClient, directory: str, found: Iterable[Entry]) -> None:
    """An event for each record or file that a check found not to be sound, and of many for those beyond
    `_MAX_FINDINGS` together. Raises StorageError.
    """
    from ioflt.keys import reporting
    from ioflt.wire.keyd.requests import Report

    about: dict[str, About] = {}
    reports = []
    bad = [(entry, finding) for entry in found if (finding := entry.finding) is not None]
    bad.sort(key=lambda each: not each[0].bad)  # data that was changed comes first
    for entry, finding in bad[:_MAX_FINDINGS]:
        top = entry.path.partition("/")[0]
        if top not in about:
            about[top] = vm(directory, top) if "/" in entry.path else datastore(directory)
        place = about[top]
        if entry.bad:
            error = IntegrityError(finding, sectors=entry.bad)
            reports.append(reporting.damage(error, place.object, place.datastore, file=entry.path))
        else:
            told = (reporting.change("file", None, entry.path),)
            reason = reporting.text(finding)
            reports.append(Report("check", place.object, place.datastore, told, "failed", reason))
    if len(bad) > _MAX_FINDINGS:
        more = (reporting.change("findings.notTold", None, str(len(bad) - _MAX_FINDINGS)),)
        reason = "more findings than are told one by one"
        reports.append(Report("check", datastore(directory).object, None, more, "failed", reason))
    if reports:
        keys.note_events(reports)


@contextmanager
def finds_told(keys: KeyClient, directory: Path) -> Iterator[None]:
    """Of sectors that do not verify in the block, and of ports that write to files, there are events."""
    from ioflt.datastore import guards
    from ioflt.keys import reporting

    ports = _Ports()
    log = logging.getLogger(guards.__name__)
    log.addHandler(ports)
    try:
        yield
    except IntegrityError as error:
        path = error.file or ""
        if os.path.isabs(path):
            path = os.path.relpath(os.path.realpath(path), os.path.realpath(directory))
        if not path.startswith("../"):  # of the other one of two datastores
            about = vm(directory, path.partition("/")[0]) if "/" in path else datastore(directory)
            with suppress(IofltError):  # what went wrong is said in any case
                keys.note_events([reporting.damage(error, about.object, about.datastore, file=path)])
        raise
    finally:
        log.removeHandler(ports)
        if ports.found:
            keys.note_events([_port(vmx, port, directory) for vmx, port in ports.found])


class _Ports(logging.Handler):
    """Takes note of the ports that `datastore.guards` warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        from ioflt.datastore.guards import PORT_OF

        found = getattr(record, PORT_OF, None)
        if found is not None and len(self.found) < _MAX_PORTS:
            self.found.append(found)


def _port(vmx: str, port: str, directory: Path) -> Report:
    from ioflt.cli.places import datastore_above
    from ioflt.keys import reporting
    from ioflt.wire.keyd.requests import Report

    about = datastore(directory) if datastore_above(vmx) is None else file(vmx)[0]
    told = (reporting.change("file", None, vmx),)
    return Report("port warning", about.object, about.datastore, told, reason=reporting.text(port))


def _report(about: About, changes: tuple[Change, ...], part: str) -> Report:
    from ioflt.access.operations import OPERATIONS, base
    from ioflt.cli.session import operation
    from ioflt.keys import reporting
    from ioflt.wire.keyd.requests import Report

    command = operation()
    named = f"{base(command)}: {part or 'a clear VM'}"
    if part or (about.clear and named in OPERATIONS):
        command = named
    told = tuple(reporting.change(*each) for each in changes)
    return Report(command, about.object, about.datastore, told)


def _failed(report: Report, error: BaseException) -> Report:
    import msgspec

    from ioflt.keys import reporting

    why = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
    outcome = "refused" if isinstance(error, _REFUSALS) else "failed"
    return msgspec.structs.replace(report, outcome=outcome, reason=reporting.text(why))


@contextmanager
def _client(keys: KeyClient | None) -> Iterator[KeyClient]:
    from ioflt.cli.session import operation
    from ioflt.keys.client import KeyClient

    if keys is not None:
        yield keys
        return
    with KeyClient.connect(operation=operation()) as client:
        yield client


def _thing(kind: str, ident: str, shown: str) -> ReportedThing:
    from ioflt.keys import reporting
    from ioflt.wire.keyd.requests import ReportedThing

    return ReportedThing(kind, ident, reporting.text(shown))  # type: ignore[arg-type]  # kinds are given here


def _record(directory: str | os.PathLike[str]) -> object:
    """The record of a directory as it is there, or None."""
    from ioflt.datastore import records
    from ioflt.format.record import record as form

    with suppress(OSError, CorruptDataError):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return form.parse(records.read(fd)).record
        finally:
            os.close(fd)
    return None
