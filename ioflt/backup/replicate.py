"""Points copied into another destination of the same kind, verified, each whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from ioflt.backup import images, sealing
from ioflt.backup.repository import Repository
from ioflt.backup.shelf import Shelf
from ioflt.datastore import files
from ioflt.datastore.container import Progress
from ioflt.errors import ExistsError, MalformedError, UsageError
from ioflt.format.manifest import text
from ioflt.format.manifest.model import Manifest


@dataclass(frozen=True, slots=True)
class Replicated:
    """Of one VM: the points that were copied, and how many were there already."""

    vm: str
    copied: list[str]
    present: int


def missing(source: Shelf, target: Shelf) -> list[str]:
    """The points to copy, the oldest first: after one that is there others may build on it.

    One that was pruned in either place is the same still. Raises ExistsError for a point that is another one
    there; CorruptDataError.
    """
    there = set(target.points())
    found = []
    for point in source.points():
        if point not in there:
            found.append(point)
        elif _bare(source.document(point).manifest) != _bare(target.document(point).manifest):
            raise ExistsError("another backup has this name there", file=f"{target.path}/{point}")
    return found


def replicate(source: Shelf, target: Shelf, point: str, progress: Progress | None = None) -> None:
    """Copy a point; the caller has the target's shelf alone.

    Raises CorruptDataError where it is not what its manifest says, or a link is missing there; StorageError,
    KeyUnavailableError, DeniedError.
    """
    document = source.document(point)
    sealing.check(document, None)
    manifest = document.manifest
    for parent in sorted(manifest.parents - set(target.points())):
        told = f"the point {parent}, on which {point} builds"
        raise MalformedError("link missing", told, file=target.path)
    with target.making(point) as draft:
        for path, sha256 in _digests(manifest):
            with source.opened(f"{point}/{path}") as old, target.created(f"{draft}/{path}") as new:
                files.copy_contents(old, new, progress)
            if images.digest(target, f"{draft}/{path}", progress) != sha256:
                damaged = images.digest(source, f"{point}/{path}") != sha256
                where = (source if damaged else target).path
                raise MalformedError(
                    "changed", "its digest is not that of the manifest", file=f"{where}/{point}/{path}"
                )
        with target.created(f"{draft}/{text.NAME}") as new:
            new.write(0, text.write(manifest, document.signed))


def check_kinds(source: Repository, target: Repository) -> None:
    """Raises UsageError."""
    if source.kind != target.kind:
        raise UsageError(f"holds {target.kind} backups, these are {source.kind}", file=target.path)


def _bare(manifest: Manifest) -> Manifest:
    """Without what pruning changes: on which images its images build."""
    return msgspec.structs.replace(
        manifest,
        disks=tuple(
            msgspec.structs.replace(disk, parent=None, stored=0, sha256="", content="")
            for disk in manifest.disks
        ),
    )


def _digests(manifest: Manifest) -> list[tuple[str, str]]:
    """Each file of a point, but the manifest, and its SHA-256."""
    disks = [(disk.image, disk.sha256) for disk in manifest.disks]
    return disks + [(f"{text.FILES}/{file.path}", file.sha256) for file in manifest.files]
