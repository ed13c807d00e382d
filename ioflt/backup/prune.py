"""Points removed, so that each one that stays is whole.

What builds on a point that goes gets first what it needs of it: its image is made anew, of both. A point is
replaced as a whole, its manifest signed again; only then the old ones go, the newest first. A crash leaves
each point either as it was or as it is to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from ioflt.backup import images, sealing
from ioflt.backup.images import Chain
from ioflt.backup.retention import Keep, kept
from ioflt.backup.sealing import Signer
from ioflt.backup.shelf import Shelf
from ioflt.datastore.container import Progress
from ioflt.errors import UsageError
from ioflt.format.manifest import text
from ioflt.format.manifest.model import Disk


@dataclass(frozen=True, slots=True)
class Plan:
    """Of one VM: the points that stay, those of them that are made anew, and those that go."""

    vm: str
    kept: list[str]
    merged: list[str]
    removed: list[str]


def plan(shelf: Shelf, keep: Keep) -> Plan:
    """What would be done. Raises UsageError where nothing would be kept; CorruptDataError for a manifest."""
    points = shelf.points()
    stay = kept(points, keep)
    if points and not stay:
        raise UsageError("nothing would be kept: say what, as --keep-last 1", file=shelf.path)
    merged = [point for point in stay if _parents(shelf, point) - set(stay)]
    return Plan(shelf.name, stay, merged, [point for point in points if point not in stay])


def prune(shelf: Shelf, wanted: Plan, signer: Signer, key: str, progress: Progress | None = None) -> None:
    """Do it; the caller has the shelf alone. `key`: who signed what is made anew and signed again, in PEM;
    else a stranger's points were ours afterwards.

    Raises AuthenticationError for such ones; CorruptDataError where a chain is not whole: then nothing that
    it needs has gone. StorageError, KeyUnavailableError, DeniedError.
    """
    for point in wanted.merged:
        _Merge(shelf, point, wanted.kept, key, progress).run(signer)
    for point in reversed(wanted.removed):
        shelf.remove_point(point)


def _parents(shelf: Shelf, point: str) -> set[str]:
    return shelf.document(point).manifest.parents


class _Merge:
    """One point made anew: each disk on the newest one that stays of those it builds on, or on none."""

    def __init__(
        self, shelf: Shelf, point: str, stay: Sequence[str], key: str, progress: Progress | None
    ) -> None:
        document = shelf.document(point)
        sealing.check(document, key)
        self._shelf = shelf
        self._manifest = document.manifest
        self._about = sealing.about(
            shelf.path, document.manifest.vm, document.manifest.home_id, point, document.signed
        )
        self._stay = stay
        self._key = key
        self._progress = progress
        self._known = {point: document.manifest}

    def run(self, signer: Signer) -> None:
        signer.may_sign(self._about)  # before all that is for nothing else
        shelf, point = self._shelf, self._manifest.point
        with shelf.making(point) as draft:
            disks = tuple(self._disk(draft, disk) for disk in self._manifest.disks)
            for file in self._manifest.files:
                shelf.link(f"{point}/{text.FILES}/{file.path}", f"{draft}/{text.FILES}/{file.path}")
            made = msgspec.structs.replace(self._manifest, disks=disks)
            with shelf.created(f"{draft}/{text.NAME}") as new:
                new.write(0, sealing.signed(made, signer, self._about))

    def _disk(self, draft: str, disk: Disk) -> Disk:
        """Raises MalformedError "link missing", "changed"."""
        shelf, manifest = self._shelf, self._manifest
        where = f"{draft}/{disk.image}"
        if disk.parent is None or disk.parent in self._stay:
            shelf.link(f"{manifest.point}/{disk.image}", where)
            return disk
        chain = images.chain_of(shelf, manifest, disk.path, self._known, self._key)
        staying = (number for number, each in enumerate(chain) if number and each.point in self._stay)
        going = next(staying, len(chain))
        parent = chain[going].point if going < len(chain) else None
        backing = None if parent is None else f"../{parent}/{disk.image}"
        # A disk may have ended within a cluster: all counts.
        with Chain(shelf, chain, disk.path, proved=going, progress=self._progress) as source:
            areas = source.areas() if parent is None else source.told(going)
            stored = images.write(shelf, where, source, areas, backing, self._progress)
        return msgspec.structs.replace(
            disk, parent=parent, stored=stored.size, sha256=stored.sha256, content=stored.content
        )
