"""What a destination has: its points, without a look at what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from ioflt.backup import sealing
from ioflt.backup.repository import Repository
from ioflt.backup.shelf import TIME, Shelf
from ioflt.errors import CorruptDataError, KeyUnavailableError, NotFoundError, UsageError


@dataclass(frozen=True, slots=True)
class Listed:
    """One point. What cannot be read is None; `problem` says why. `depends`: on which points it builds.

    `signed_by`, `signed_at`: by the word of the machine that signed it, whichever that is.
    """

    vm: str
    point: str
    full: bool | None
    depends: list[str]
    size: int | None
    consistency: str | None
    transport: str | None
    signed_by: str | None
    signed_at: str | None
    problem: str | None


def points(repository: Repository, vm: str | None = None) -> list[Listed]:
    """All points, or those of one VM. Raises NotFoundError, StorageError, DeniedError."""
    found: list[Listed] = []
    for name in repository.vms() if vm is None else [vm]:
        with repository.shelf(name) as shelf:
            for point in shelf.points():
                try:
                    document = shelf.document(point)
                    sealing.check(document, None)
                    manifest, signed = document.manifest, sealing.attested(document)
                except (CorruptDataError, KeyUnavailableError) as error:
                    found.append(Listed(name, point, None, [], None, None, None, None, None, error.message))
                    continue
                found.append(
                    Listed(
                        name,
                        point,
                        manifest.full,
                        sorted(manifest.parents),
                        manifest.stored,
                        manifest.consistency,
                        manifest.transport,
                        *signed,
                        None,
                    )
                )
    return found


def named(shelf: Shelf, point: str | None) -> str:
    """That point, or the newest one. Raises NotFoundError."""
    there = shelf.points()
    if not there:
        raise NotFoundError("no backups of it", file=shelf.path)
    if point is not None and point not in there:
        raise NotFoundError(f"no backup {point}", file=shelf.path)
    return there[-1] if point is None else point


def at(shelf: Shelf, moment: str | None) -> str:
    """The newest point, or the newest that is not newer than that moment: a point's name, or a date, or a
    time in UTC in ISO 8601. Raises NotFoundError, UsageError.
    """
    there = shelf.points()
    if moment is None or moment in there:
        return named(shelf, moment)
    try:
        parsed = datetime.fromisoformat(moment)
        if _is_date(moment):  # all of that day
            parsed += timedelta(days=1, seconds=-1)
        limit = parsed.replace(tzinfo=parsed.tzinfo or UTC).astimezone(UTC).strftime(TIME)
    except (ValueError, OverflowError):
        raise UsageError(f"neither a point nor a time: {moment[:40]!r}", file=shelf.path) from None
    found = [point for point in there if point <= limit]
    if not found:
        raise NotFoundError(f"no backup as old as {moment}", file=shelf.path)
    return found[-1]


def _is_date(moment: str) -> bool:
    try:
        return bool(date.fromisoformat(moment))
    except ValueError:
        return False


def sole(repository: Repository) -> str:
    """The VM, where one has points. Raises NotFoundError, UsageError."""
    vms = []
    for name in repository.vms():
        with repository.shelf(name) as shelf:
            vms += [name] * bool(shelf.points())
    if not vms:
        raise NotFoundError("no backups in it", file=repository.path)
    if len(vms) > 1:
        raise UsageError(f"has backups of {len(vms)} VMs: say which", file=repository.path)
    return vms[0]
