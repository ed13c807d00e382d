"""Copies of whole homes, in the same datastore or another one of this host.

What becomes of one its policy says, by `policy.crypto`. Unless another is asked for an encrypted VM keeps its
own, so nothing is decrypted by the way; a clear one gets that of the datastore to which it comes.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace

from ioflt.datastore import (
    atomic,
    clearlist,
    datakeys,
    files,
    guards,
    newcontainer,
    policies,
    regular,
    sidecars,
    stateblocks,
    tagfiles,
    tree,
)
from ioflt.datastore.container import Progress
from ioflt.datastore.header import read_header
from ioflt.datastore.home import Home
from ioflt.datastore.newhome import check_name, new_home
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.plain import PlainFile
from ioflt.datastore.standing import Treatment
from ioflt.datastore.tree import HomeSide
from ioflt.datastore.volume import Volume
from ioflt.errors import ReadOnlyError, UsageError
from ioflt.filters.backing import Backing
from ioflt.format.luks2 import state
from ioflt.format.luks2.layout import STATE_SLOT_OFFSETS
from ioflt.format.record.record import HomeRecord
from ioflt.keys.service import KeyService
from ioflt.policy import crypto
from ioflt.policy.crypto import CryptoSpec
from ioflt.policy.model import StoragePolicy
from ioflt.types import HomeState, KeyRef


@dataclass(frozen=True, slots=True)
class Cloned:
    """The home that was made, and its keys."""

    home: str
    state: str
    keys: list[str]
    files: list[str]


def clone(
    source: Volume,
    name: str,
    target: Volume,
    new_name: str,
    *,
    provider: str | None = None,
    same_key: bool = False,
    policy: StoragePolicy | None = None,
    integrity: bool = False,
    progress: Progress | None = None,
) -> Cloned:
    """Copy a powered-off VM, with new data keys under a new KEK of `provider`, else of the target's.

    `policy`: that of the copy; one that does not encrypt decrypts it. `integrity`: its files get tags,
    whatever that says; they have them anyway when those of the source have.
    `same_key`: the containers are copied as they are, by reflink where the file system has that: both VMs
    have the same data keys, and who sees both sees which blocks are equal. `source` and `target` may be the
    same object. Raises BusyError, ReadOnlyError, ExistsError, UsageError, KeyUnavailableError,
    CorruptDataError, StorageError; then there is no new home.
    """
    old = source.home(name)
    with regular.named(old), old.exclusive():
        record = sound(old)
        check_name(target, new_name)  # before a key is made
        if same_key and record.state is HomeState.CLEAR:
            raise UsageError("is clear: it has no key that a clone could share")
        if same_key and record.operation is not None:  # not every file has all of the keys
            raise UsageError("its recrypt was interrupted, and comes first")
        if same_key and policy is not None and not policy.encrypts:
            raise UsageError(f"the policy {policy.name} decrypts: there is no key to share")
        if spec_of(record, target, policy) is CryptoSpec.ENCRYPT:
            guards.check(old.fd, regular.full_path(old), encrypts=True)
        first = first_record(
            record, target, new_name, provider, same_key=same_key, policy=policy, integrity=integrity
        )
        if same_key and first.integrity is not record.integrity:
            raise UsageError("has no tags, which a clone with its keys could share")
        with new_home(target, new_name, first) as new:
            copied = copy_files(old, new, progress, same_key=same_key)
        return Cloned(new_name, first.state.value, [str(key) for key in first.keys], copied)


def copy_files(old: Home, new: Home, progress: Progress | None, *, same_key: bool = False) -> list[str]:
    """All files into a new home, and how its directory looks; their paths. Raises as `clone`."""
    side = _Stored if same_key else HomeSide
    copied = tree.copy(side(old), old.fd, side(new), new.fd, progress)
    if same_key:
        _copy_tags(old, new, copied)
        _renumber_all(new, copied)
    sidecars.follow_copies(old, new, copied)
    tree.dress_directory(old.fd, new.fd)
    return copied


def sound(home: Home) -> HomeRecord:
    """The record of a home that nothing is wrong with. Raises ReadOnlyError otherwise."""
    standing = home.standing()
    if standing.record is None or standing.problem is not None:
        raise ReadOnlyError(standing.problem or "it has no record")
    return clearlist.settled(home.fd, standing.record)


def first_record(
    old: HomeRecord,
    target: Volume,
    name: str,
    provider: str | None,
    *,
    key: KeyRef | None = None,
    same_key: bool = False,
    policy: StoragePolicy | None = None,
    integrity: bool = False,
) -> HomeRecord:
    """The record of a copy, by that policy, else as `becomes` says; with that key or new ones."""
    wanted = policy or becomes(old, target)
    spec = spec_of(old, target, policy)
    made = target.fresh_record(name, wanted, provider, old.keys[0] if same_key else key, integrity=integrity)
    if spec is not CryptoSpec.NO_OP or old.state is HomeState.CLEAR:
        return made
    keeps_thick = policy is None or policy.provisioning is None
    return replace(
        made,
        keys=old.keys if same_key else made.keys,
        thick=old.thick if keeps_thick else made.thick,
        integrity=old.integrity or made.integrity,
        clear_files=old.clear_files,
    )


def spec_of(old: HomeRecord, target: Volume, policy: StoragePolicy | None) -> CryptoSpec:
    """What happens to the files of a copy."""
    return crypto.default_spec(old.state, encrypts=(policy or becomes(old, target)).encrypts)


def becomes(old: HomeRecord, target: Volume) -> StoragePolicy:
    """The policy of a copy for which none was asked."""
    if old.state is HomeState.ENCRYPTED:
        return policies.of_record(target.keys, old.policy, old.state)
    return policies.default(target.keys, target.record, target.record.default)


class _Stored(HomeSide):
    """Containers as they are stored; a VMX, which carries its number in clear, is sealed anew."""

    def open(self, parent_fd: int, path: str) -> OpenFile:
        fd = files.open_regular(parent_fd, os.path.basename(path), os.O_RDONLY)
        if self._home.treatment(path, fd) is Treatment.VMX:
            os.close(fd)
            return super().open(parent_fd, path)
        return _plain(fd)

    def create(self, parent_fd: int, path: str, mode: int) -> OpenFile:
        if self._home.treatment(path) is Treatment.VMX:
            return super().create(parent_fd, path, mode)
        return tree.HostSide().create(parent_fd, path, mode)


def _copy_tags(old: Home, new: Home, paths: list[str]) -> None:
    """A container that was copied as it is needs its tags as they are; several names of one stay one file."""
    made: dict[str, str] = {}
    for path in paths if old.standing().integrity else []:
        with regular.named(new, path), regular.parent(new, path) as (parent_fd, name):
            with regular.opened(new, path) as fd:
                uuid = tagfiles.uuid_of(fd)
            if uuid is None:
                continue
            if uuid in made:
                with regular.opened(new, made[uuid]) as first:
                    atomic.link_over(new.fd, first, parent_fd, name)
                continue
            made[uuid] = path
            with ExitStack() as opened:
                source = tagfiles.open_file(old.fd, uuid, writable=False)
                opened.callback(os.close, source)
                target = tagfiles.make(new.fd, uuid)
                opened.callback(os.close, target)
                files.copy_contents(_plain(source), _plain(target))
                os.fsync(target)
    tagfiles.sync_directory(new.fd)


def _plain(fd: int) -> PlainFile:
    return PlainFile(fd, Backing(fd, 0))


def _renumber_all(home: Home, paths: list[str]) -> None:
    """A container brought its file id along: no two files of a mount have one."""
    for path in paths:
        with regular.named(home, path), regular.parent(home, path) as (parent_fd, name):
            fd = files.open_regular(parent_fd, name, os.O_RDWR)
            try:
                if home.treatment(path, fd) is Treatment.CONTAINER:
                    before = os.fstat(fd)
                    _renumber(fd, home.volume.keys)
                    os.fsync(fd)
                    atomic.keep_times(fd, before)
            finally:
                os.close(fd)


def _renumber(fd: int, keys: KeyService) -> None:
    """Give a raw copy of a container, open for writing, a file id of its own. Syncs nothing.

    Raises CorruptDataError, KeyUnavailableError, OSError.
    """
    header = read_header(fd)
    with datakeys.unwrap(header, keys) as dek, state.mac_key(dek, header.uuid) as mac_key:
        block = replace(stateblocks.load(fd, mac_key), file_id=newcontainer.new_file_id())
        for _ in STATE_SLOT_OFFSETS:  # no slot keeps the old one
            block = replace(block, sequence=block.sequence + 1)
            stateblocks.write(fd, block, mac_key)
