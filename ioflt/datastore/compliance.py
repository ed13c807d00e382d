"""How the VMs of a datastore keep to their policies: the facts for `policy.compliance`. Changes nothing."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass

from ioflt.datastore import cbtfiles, guards, policies, regular
from ioflt.datastore.container import Progress
from ioflt.datastore.header import read_header
from ioflt.datastore.home import Home
from ioflt.datastore.standing import Standing, Treatment, is_private, stored_as
from ioflt.datastore.volume import Volume
from ioflt.errors import CorruptDataError, IofltError
from ioflt.format.record.record import HomeRecord
from ioflt.keys.service import KeyService
from ioflt.policy.bundled import OF_STATE
from ioflt.policy.compliance import Departure, Facts, departures, of_top
from ioflt.policy.model import CBT, StoragePolicy
from ioflt.types import HomeState


@dataclass(frozen=True, slots=True)
class Found:
    """A departure of the VM or datastore at `path` from its policy."""

    path: str
    policy: str | None
    what: str
    wanted: str
    found: str
    mend: str | None


def look(volume: Volume, progress: Progress | None = None) -> list[Found]:
    """Every departure, the datastore's own first. `progress` hears of VMs looked at.

    Raises CorruptDataError, StorageError when the host's own policies cannot be read.
    """
    found = of_datastore(volume)
    for name in volume.homes():
        found += of_home(volume.home(name))
        if progress is not None:
            progress(1)
    return found


def of_datastore(volume: Volume) -> list[Found]:
    """Its policy is what VMs get: whether it encrypts has to be what its record says."""
    record = volume.claimed
    policy = _named(volume.keys, record.policy, record.default)
    encrypted = record.default is HomeState.ENCRYPTED
    departed = []
    if policy is None:
        departed = [_unknown(volume.path, record.policy, record.default)]
    elif policy.encrypts != encrypted:
        departed = departures(policy, Facts(volume.path, encrypted))
    elif encrypted:
        departed = of_top(policy, _containers_at_top(volume.root))
    return _told(volume.path, record.policy, departed)


def of_home(home: Home) -> list[Found]:
    """The departures of one VM; also that its record is missing, or not in force."""
    policy = None
    try:
        with regular.named(home):
            standing = home.unverified()
            policy = None if standing.record is None else standing.record.policy
            departed = _departures(home, standing, standing.record)
    except IofltError as error:
        departed = [Departure("VM", "readable", error.message, None)]
    return _told(regular.full_path(home), policy, departed)


def _containers_at_top(root: Home) -> list[str]:
    with os.scandir(root.fd) as entries:
        names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    return sorted(name for name in names if not is_private(name) and stored_as(name) is Treatment.CONTAINER)


def _told(path: str, policy: str | None, departed: list[Departure]) -> list[Found]:
    return [Found(path, policy, one.what, one.wanted, one.found, one.mend) for one in departed]


def _departures(home: Home, standing: Standing, record: HomeRecord | None) -> list[Departure]:
    place = regular.full_path(home)
    if record is None:
        if not regular.regular_files(home):  # lost+found, or made behind our back and empty
            return []
        problem = standing.problem or "it has no record"
        return [Departure("record", "valid", problem, f"ioflt vm register {shlex.quote(place)}")]
    if standing.problem is not None:
        return [Departure("record", "in force", standing.problem, None)]
    policy = _named(home.volume.keys, record.policy, record.state)
    if policy is None:
        return [_unknown(place, record.policy, record.state)]
    found = departures(policy, _facts(home, standing, record, policy))
    if record.state is HomeState.CLEAR:  # somebody put it there, or attached it: no clear VM may have one
        encrypted = guards.look(home.fd).encrypted
        found += [Departure(f"disk {path}", "clear", "encrypted", None) for path in encrypted]
    return found


def _named(keys: KeyService, name: str, state: HomeState) -> StoragePolicy | None:
    return OF_STATE[state] if not name else policies.named(keys, name)


def _unknown(place: str, name: str, state: HomeState) -> Departure:
    other = f"ioflt policy assign {shlex.quote(OF_STATE[state].name)} {shlex.quote(place)}"
    return Departure("policy", name, "no policy of that name on this host", other)


def _facts(home: Home, standing: Standing, record: HomeRecord, policy: StoragePolicy) -> Facts:
    return Facts(
        regular.full_path(home),
        record.state is HomeState.ENCRYPTED,
        tuple(dict.fromkeys(key.provider for key in record.keys)),
        record.thick,
        record.integrity,
        clear_files=record.clear_files,
        without_slot=_without_slot(home, standing) if policy.recovery_slot else (),
        untracked=_untracked(home, standing) if policy.has(CBT) else (),
    )


def _untracked(home: Home, standing: Standing) -> tuple[str, ...]:
    """The disks whose changed blocks are not tracked."""
    tracked, found = set(cbtfiles.names(home.fd)), []
    for entry in regular.regular_files(home):
        if cbtfiles.is_disk(entry.path):
            with regular.named(home, entry.path), regular.opened(home, entry.path) as fd:
                if cbtfiles.name_of(fd, home.treatment(entry.path, fd, standing)) not in tracked:
                    found.append(entry.path)
    return tuple(found)


def _without_slot(home: Home, standing: Standing) -> tuple[str, ...]:
    """The containers that no recovery passphrase opens."""
    found = []
    for entry in regular.regular_files(home):
        with regular.named(home, entry.path), regular.opened(home, entry.path) as fd:
            if home.treatment(entry.path, fd, standing) is not Treatment.CONTAINER:
                continue
            try:
                if not read_header(fd).keyslots:
                    found.append(entry.path)
            except CorruptDataError:  # `ioflt check` names it
                found.append(entry.path)
    return tuple(found)
