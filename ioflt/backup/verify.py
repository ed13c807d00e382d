"""Whether backups are whole: signatures, digests of every file, what images hold, and the links of chains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from ioflt.backup import copying, images, sealing
from ioflt.backup.repository import Repository
from ioflt.backup.shelf import Shelf
from ioflt.datastore.container import Progress
from ioflt.errors import CorruptDataError, IofltError, KeyUnavailableError, MalformedError
from ioflt.format.manifest import text
from ioflt.format.manifest.model import Disk, File, Manifest
from ioflt.format.qcow2 import header as qcow2


@dataclass(frozen=True, slots=True)
class Finding:
    """What is not as it was stored; `file` is a path in the point, or empty."""

    vm: str
    point: str
    file: str
    finding: str


@dataclass(frozen=True, slots=True)
class Verified:
    """How many points and files were looked at, who signed these points, and what was found."""

    points: int
    files: int
    signed_by: list[str]
    findings: list[Finding]


def verify(
    repository: Repository,
    vm: str | None = None,
    point: str | None = None,
    *,
    key: str | None,
    progress: Progress | None = None,
) -> Verified:
    """Look at all points, those of one VM, or one with all that it builds on. `key`: whose signatures have to
    be there, in PEM.

    Raises NotFoundError, DeniedError, StorageError.
    """
    findings: list[Finding] = []
    signers: set[str] = set()
    points = looked = 0
    for name in repository.vms() if vm is None else [vm]:
        with repository.shelf(name) as shelf:
            found = _verify(shelf, point, key, progress)
        points += found.points
        looked += found.files
        findings += found.findings
        signers.update(found.signed_by)
    return Verified(points, looked, sorted(signers), findings)


def _verify(shelf: Shelf, point: str | None, key: str | None, progress: Progress | None) -> Verified:
    """The points of one VM; once more where a `prune` took some away, or made them anew, meanwhile."""
    while True:
        before = shelf.places()
        there = sorted(before)
        checks: list[_Check] = []
        looked = 0
        findings = [Finding(shelf.name, point, "", "missing")] if point and point not in there else []
        wanted = there if point is None else _needed(shelf, point)
        for each in [one for one in there if one in wanted]:
            checks.append(check := _Check(shelf, each, there, key, progress))
            looked += check.run()
            findings += check.findings
        if not findings or before.items() <= shelf.places().items():
            return Verified(
                len(checks), looked, sorted({one for check in checks for one in check.signers}), findings
            )


def _needed(shelf: Shelf, point: str) -> set[str]:
    """The point, and those that it builds on, as far as manifests can be read."""
    needed, waiting = set[str](), {point}
    while waiting:
        one = waiting.pop()
        needed.add(one)
        with suppress(CorruptDataError, KeyUnavailableError):
            waiting |= shelf.document(one).manifest.parents - needed
    return needed


class _Check:
    """One point."""

    def __init__(
        self, shelf: Shelf, point: str, there: list[str], key: str | None, progress: Progress | None
    ) -> None:
        self._shelf = shelf
        self._point = point
        self._there = there
        self._key = key
        self._progress = progress
        self.findings: list[Finding] = []
        self.signers: set[str] = set()

    def run(self) -> int:
        """How many files it has."""
        manifest = None
        with self._noting(text.NAME):
            document = self._shelf.document(self._point)
            sealing.check(document, self._key)
            self.signers.add(sealing.attested(document)[0])
            manifest = document.manifest
        if manifest is None:
            return 1
        for disk in manifest.disks:
            with self._noting(disk.image):
                self._disk(disk)
        for file in manifest.files:
            with self._noting(f"{text.FILES}/{file.path}"):
                self._file(file)
        with self._noting(""):
            self._strangers(manifest)
        return 1 + len(manifest.disks) + len(manifest.files)

    @contextmanager
    def _noting(self, file: str) -> Iterator[None]:
        """What the block raises about the data is a finding."""
        try:
            yield
        except (CorruptDataError, KeyUnavailableError) as error:
            self._note(file, error)

    def _disk(self, disk: Disk) -> None:
        where = f"{self._point}/{disk.image}"
        if disk.parent is not None and disk.parent not in self._there:
            self._note(disk.image, f"its link is missing: the point {disk.parent}, on which it builds")
        with self._shelf.opened(where) as file:
            start = bytes(file.read(0, qcow2.MAX_SIZE))
        with images.examined(self._shelf, where, self._progress) as image:
            if (image.size, image.sha256) != (disk.stored, disk.sha256):
                raise MalformedError("changed", _sizes(image.size, disk.stored))
            backing = qcow2.parse(start).backing
            if backing != (None if disk.parent is None else f"../{disk.parent}/{disk.image}"):
                raise MalformedError("builds on another image", repr(backing)[:80])
            if image.content() != disk.content:
                raise MalformedError("holds something else than was read from the disk")

    def _file(self, kept: File) -> None:
        with self._shelf.opened(f"{self._point}/{text.FILES}/{kept.path}") as file:
            size = file.length
            if (size, copying.digest(file)) != (kept.size, kept.sha256):
                raise MalformedError("changed", _sizes(size, kept.size))
        if self._progress is not None:
            self._progress(size)

    def _strangers(self, manifest: Manifest) -> None:
        known = {text.NAME, *(disk.image for disk in manifest.disks)}
        known |= {f"{text.FILES}/{file.path}" for file in manifest.files}
        for path in self._shelf.walk(self._point):
            if path not in known:
                self._note(path, "not in the manifest")

    def _note(self, file: str, what: IofltError | str) -> None:
        told = what if isinstance(what, str) else what.message
        self.findings.append(Finding(self._shelf.name, self._point, file, told))


def _sizes(found: int, wanted: int) -> str:
    return (
        f"{found} bytes, the manifest says {wanted}" if found != wanted else "other bytes of the same length"
    )
