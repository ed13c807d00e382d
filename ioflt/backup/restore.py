"""A VM made anew from a point of a destination: encrypted on the way in, by a policy."""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from ioflt.backup.filling import Filling
from ioflt.backup.shelf import Shelf
from ioflt.crypto.mac import sha256
from ioflt.datastore import namespace, policies, regular
from ioflt.datastore.container import Progress
from ioflt.datastore.home import Home
from ioflt.datastore.newhome import check_name, resumed_home
from ioflt.datastore.tree import HomeSide, Side
from ioflt.datastore.volume import Volume
from ioflt.errors import DeniedError, KeyUnavailableError, StorageError
from ioflt.format.manifest.model import Manifest
from ioflt.format.record.record import HomeRecord
from ioflt.policy.model import StoragePolicy
from ioflt.types import HomeState, KeyRef


@dataclass(frozen=True, slots=True)
class Restored:
    """The home that was made. `kept_key`: it has a key that the VM had."""

    home: str
    point: str
    state: str
    policy: str
    keys: list[str]
    kept_key: bool
    files: list[str]


def restore(
    shelf: Shelf,
    manifest: Manifest,
    volume: Volume,
    name: str,
    policy: StoragePolicy | None = None,
    progress: Progress | None = None,
    *,
    owners: bool = False,
) -> Restored:
    """Make the VM `name` of a point, which is one of disks; by that policy, else the one that it had, if it
    is known here, else the datastore's. `owners`: files are whose they were, by numbers; for root.

    With the key that it had, if it is to be had and may be used; else a new one. Raises ExistsError,
    UsageError for the name, KeyUnavailableError, DeniedError, CorruptDataError, StorageError.
    """
    check_name(volume, name)
    wanted = policy or becomes(volume, manifest)
    about = f"{manifest.vm}\0{manifest.point}\0{manifest.home_id}\0{wanted.name}"
    token = sha256(about.encode("utf-8", "surrogateescape")).hex()[:32]
    with resumed_home(volume, name, token, lambda: _first_record(volume, name, manifest, wanted)) as home:
        _check_room(home, manifest)
        paths = Filling(shelf, manifest, _InHome(home), progress, owners=owners).run()
        keys = home.standing().keys if home.standing().state is HomeState.ENCRYPTED else ()
        state = home.standing().state.value
    had = {(key.provider, key.key_id) for key in manifest.keys}
    kept = any((key.provider, key.key_id) in had for key in keys)
    return Restored(name, manifest.point, state, wanted.name, [*map(str, keys)], kept, paths)


def _check_room(home: Home, manifest: Manifest) -> None:
    """Whether disks that take all their room at once have it: a manifest claims any. Raises StorageError."""
    record = home.standing().record
    if record is None or not record.thick:
        return
    wanted = sum(disk.capacity for disk in manifest.disks if disk.form != "qcow2")
    there = sum(
        each.info.st_blocks * 512 for each in regular.regular_files(home)
    )  # of an interrupted restore
    found = os.fstatvfs(home.fd)
    free = found.f_bavail * found.f_frsize
    if wanted - there > free:
        told = f"its thick disks take {wanted - there} bytes, {free} are free"
        raise StorageError(told, errno.ENOSPC, file=home.name)


def becomes(volume: Volume, manifest: Manifest) -> StoragePolicy:
    """The policy of a VM for which none was asked: an encrypted one stays encrypted."""
    record = volume.record
    if manifest.state == HomeState.ENCRYPTED.value:
        known = policies.named(volume.keys, manifest.policy) if manifest.policy else None
        if known is not None and known.encrypts:
            return known
        return policies.default(volume.keys, record, HomeState.ENCRYPTED)
    return policies.default(volume.keys, record, record.default)


def _first_record(volume: Volume, name: str, manifest: Manifest, policy: StoragePolicy) -> HomeRecord:
    """By the policy; thick and with tags as the VM was, where that does not say."""
    made = _fresh_record(volume, name, manifest, policy)
    keeps_thick = policy.encrypts and policy.provisioning is None
    return replace(made, thick=manifest.thick if keeps_thick else made.thick)


def _fresh_record(volume: Volume, name: str, manifest: Manifest, policy: StoragePolicy) -> HomeRecord:
    for key in manifest.keys if policy.encrypts else ():
        if policy.provider in (None, key.provider) and _usable(
            volume, ref := KeyRef(key.provider, key.key_id)
        ):
            return volume.fresh_record(name, policy, key=ref, integrity=manifest.integrity)
    return volume.fresh_record(name, policy, integrity=manifest.integrity and policy.encrypts)


def _usable(volume: Volume, key: KeyRef) -> bool:
    """Whether new data may come under the key: tried, as only keyd knows whose it is."""
    try:
        volume.keys.use_key(key)
        ((dek, _),) = volume.keys.generate(key, [b"restore"])
    except (KeyUnavailableError, DeniedError):
        return False
    dek.wipe()
    return True


class _InHome:
    """A home in the making: what is written is encrypted as it says."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.fd = home.fd
        self.side: Side = HomeSide(home)

    def named(self, path: str) -> AbstractContextManager[None]:
        return regular.named(self._home, path)

    def remove(self, parent_fd: int, name: str) -> None:
        namespace.remove(self._home, parent_fd, name, os.unlink)
