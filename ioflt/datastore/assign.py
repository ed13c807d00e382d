"""Giving a policy to a VM or a datastore: the record names it from then on, and what it asks for is done.

A VM is converted where its state is another than the policy's. A datastore's policy is that of VMs that are
made in it; VMs that are there keep theirs.
"""

from __future__ import annotations

import os
from dataclasses import replace

from ioflt.datastore import atomic, lifecycle, regular
from ioflt.datastore.container import Progress
from ioflt.datastore.home import Home
from ioflt.datastore.standing import is_private
from ioflt.datastore.volume import Volume
from ioflt.errors import KeyNotFound, ReadOnlyError, UsageError
from ioflt.format.record.record import HomeRecord, Operation
from ioflt.policy.model import StoragePolicy
from ioflt.types import HomeState


def to_home(
    volume: Volume,
    name: str,
    policy: StoragePolicy,
    progress: Progress | None = None,
    *,
    force: bool = False,
) -> HomeRecord:
    """Give it to a VM: an encryption policy encrypts it, another one decrypts it.

    What is encrypted already keeps its keys and files; `compliance` says what the policy finds wanting then.
    An interrupted conversion is gone on with, or taken back. `force` as in `lifecycle.encrypt`. Raises
    what `encrypt` and `decrypt` there raise.
    """
    wanted = HomeState.ENCRYPTED if policy.encrypts else HomeState.CLEAR
    record = _record(volume, name)
    if record.state is not wanted or isinstance(record.operation, Operation):
        if policy.encrypts:
            lifecycle.encrypt(volume, name, policy=policy, force=force, progress=progress)
        else:
            lifecycle.decrypt(volume, name, policy=policy, progress=progress)
    return _name(volume, name, policy)


def to_datastore(volume: Volume, policy: StoragePolicy) -> None:
    """Give it to the datastore: VMs that are made in it get it from now on.

    Files at its top are stored as its policy says: raises UsageError when some would have to be converted, or
    while its recrypt is under way, KeyNotFound for a provider that is not here,
    and what `Root.check_writable` and `replace` raise.
    """
    root, default = volume.root, HomeState.ENCRYPTED if policy.encrypts else HomeState.CLEAR
    if policy.provider not in (None, *(provider.name for provider in volume.keys.status().providers)):
        raise KeyNotFound(f"no provider {policy.provider} is configured here")
    with regular.named(root), root.frozen():
        root.check_writable()
        record = volume.record
        if record.operation is not None:
            raise UsageError(f"its {record.operation.kind} was interrupted, and comes first")
        atomic.remove_drafts(root.fd)
        if default is not record.default and (file := _file_at_top(root)) is not None:
            raise UsageError(f"has files at its top, which are {record.default.value}: {file}")
        if (record.policy, record.default) != (policy.name, default):
            root.replace(replace(record, policy=policy.name, default=default))


def _file_at_top(root: Home) -> str | None:
    with os.scandir(root.fd) as entries:
        found = [entry.name for entry in entries if not is_private(entry.name) and not entry.is_dir()]
    return min(found, default=None)


def _record(volume: Volume, name: str) -> HomeRecord:
    home = volume.home(name)
    with regular.named(home):
        standing = home.standing()
        if standing.record is None:
            raise ReadOnlyError(standing.problem or "it has no record")
        return standing.record


def _name(volume: Volume, name: str, policy: StoragePolicy) -> HomeRecord:
    """The VM is in the policy's state: its record names the policy, and how new files are made."""
    home = volume.home(name)
    with regular.named(home):
        home.check_writable()
        with home.shared(), home.changing() as (record, store):
            if record.operation is not None:
                raise UsageError(f"its {record.operation.kind} was interrupted, and comes first")
            changed = replace(record, policy=policy.name, thick=_thick(record, policy))
            return record if changed == record else store(changed)


def _thick(record: HomeRecord, policy: StoragePolicy) -> bool:
    return record.thick if policy.provisioning is None else policy.provisioning == "thick"
