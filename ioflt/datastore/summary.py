"""What is known of the homes of a datastore, for people and scripts; one bad home never hides the others."""

from __future__ import annotations

from dataclasses import dataclass

from ioflt.datastore import files, regular
from ioflt.datastore.container import Progress
from ioflt.datastore.home import LOST_FOUND, Home
from ioflt.datastore.regular import Entry
from ioflt.datastore.standing import Standing, Treatment
from ioflt.datastore.volume import Volume
from ioflt.errors import IofltError


@dataclass(frozen=True, slots=True)
class FileSummary:
    """A regular file: its path in the home, how it is stored, its length for the VM, bytes on the datastore.

    `length` is what the file claims, not verified; None, with the reason in `problem`, when it is unusable.
    """

    path: str
    stored_as: str
    length: int | None
    allocated: int
    problem: str | None


@dataclass(frozen=True, slots=True)
class MissingKey:
    """A key that a locked home needs: the provider that does not give it, why, and since when (seconds since
    1970; None where that is not known).
    """

    key: str
    provider: str
    reason: str
    since: int | None


@dataclass(frozen=True, slots=True)
class HomeSummary:
    """A home. `problem`: why it takes no writes. `state` and `keys` are those by which its files are read.
    `integrity`: whether its files have tags.

    `missing`: of a locked home, the keys of which any one would open it.
    """

    name: str
    state: str
    keys: list[str]
    policy: str | None
    thick: bool
    integrity: bool
    problem: str | None
    missing: list[MissingKey]
    files: list[FileSummary]


@dataclass(frozen=True, slots=True)
class OwnRecord:
    """Whether the datastore's own record was verified. `problem`: why nothing is made by it; `missing`: as of
    a home.
    """

    verified: bool
    problem: str | None
    missing: list[MissingKey]


def own(volume: Volume) -> OwnRecord:
    """What is known of the datastore itself."""
    standing = volume.root.unverified()
    return OwnRecord(volume.root.is_verified, standing.problem, _missing(volume.root, standing))


def homes(volume: Volume, progress: Progress | None = None) -> list[HomeSummary]:
    """All homes, sorted by name; without an empty lost+found. `progress` hears of files looked at."""
    found = []
    for name in volume.homes():
        found.append(_readable(volume, name))
        if progress is not None:
            progress(len(found[-1].files))
    return [home for home in found if home.name != LOST_FOUND or home.files or home.keys]


def _readable(volume: Volume, name: str) -> HomeSummary:
    try:
        return home(volume, name)
    except IofltError as error:
        return _unknown(name, error)


def home(volume: Volume, name: str) -> HomeSummary:
    """One home. Raises NotFoundError and UsageError when there is none of that name, else nothing."""
    found = volume.home(name)
    try:
        with regular.named(found):
            standing = found.unverified()
            entries = regular.regular_files(found)
    except IofltError as error:
        return _unknown(name, error)
    record = standing.record
    missing = _missing(found, standing)
    return HomeSummary(
        name,
        standing.state.value,
        [] if record is None else list(map(str, record.keys)),
        None if record is None else record.policy,
        standing.thick,
        standing.integrity,
        standing.problem,
        missing,
        [_file(found, standing, entry, locked=bool(missing)) for entry in entries],
    )


def _unknown(name: str, error: IofltError) -> HomeSummary:
    return HomeSummary(name, "unknown", [], None, False, False, error.message, [], [])


def _missing(home: Home, standing: Standing) -> list[MissingKey]:
    """What keyd has heard of the keys of a home, if none of them can be had."""
    if not standing.locked:
        return []
    keys = list(dict.fromkeys(standing.keys))
    try:
        states = home.volume.keys.key_states(keys, ask=False)
    except IofltError as error:
        return [MissingKey(str(key), key.provider, error.message, None) for key in keys]
    return [
        MissingKey(str(key), key.provider, state.missing.message, state.since)
        for key, state in zip(keys, states, strict=True)
        if state.missing is not None
    ]


def _file(found: Home, standing: Standing, entry: Entry, *, locked: bool) -> FileSummary:
    treatment = Treatment.CLEAR
    length: int | None = entry.info.st_size
    problem = None
    try:
        with regular.named(found, entry.path), regular.opened(found, entry.path) as fd:
            treatment = found.treatment(entry.path, fd, standing)
            if treatment is not Treatment.CLEAR:
                length = None
                length = files.look(fd, treatment).length
                if locked and entry.path.lower().endswith(".vmdk"):  # in vSphere's words
                    disk = regular.full_path(found, entry.path)
                    problem = f"The disk [{disk}] is encrypted and a required key was not found."
    except IofltError as error:
        problem = error.message
    return FileSummary(entry.path, treatment.value, length, entry.info.st_blocks * 512, problem)
