"""What a destination has: its points, without a look at what they hold."""

from __future__ import annotations

from dataclasses import dataclass

from ioflt.backup.repository import Repository
from ioflt.errors import CorruptDataError, IofltError, KeyUnavailableError


@dataclass(frozen=True, slots=True)
class Listed:
    """One point. What cannot be read is None; `problem` says why. `depends`: on which points it builds."""

    vm: str
    point: str
    full: bool | None
    depends: list[str]
    size: int | None
    consistency: str | None
    transport: str | None
    problem: str | None


def points(repository: Repository, vm: str | None = None) -> list[Listed]:
    """All points, or those of one VM. Raises NotFoundError, StorageError, DeniedError."""
    found: list[Listed] = []
    for name in repository.vms() if vm is None else [vm]:
        with repository.shelf(name) as shelf:
            for point in shelf.points():
                try:
                    manifest = shelf.document(point).manifest
                except (CorruptDataError, KeyUnavailableError) as error:
                    found.append(Listed(name, point, None, [], None, None, None, _why(error)))
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
                        None,
                    )
                )
    return found


def _why(error: IofltError) -> str:
    return error.message
