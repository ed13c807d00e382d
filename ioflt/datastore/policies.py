"""What the policy that a record names asks for, as this host knows it.

A record names its policy; keyd has what the host's own ones ask for. Whether something is encrypted the
record says: a policy of that name that says otherwise, or that is not known here, is one of which only the
name counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol

from ioflt.format.record.record import DatastoreRecord
from ioflt.keys.service import KeyService
from ioflt.policy import changes, text
from ioflt.policy.bundled import BUNDLED, OF_STATE
from ioflt.policy.model import StoragePolicy
from ioflt.types import HomeState, KeyRef


class Assigned(Protocol):
    """A datastore's record."""

    @property
    def policy(self) -> str: ...

    @property
    def default(self) -> HomeState: ...


#: The id of a policy of which only the name is known.
UNKNOWN_ID: Final = ""


def every(keys: KeyService) -> Sequence[StoragePolicy]:
    """Those that come with ioflt, then the host's own. Raises as `KeyService.policies`."""
    return (*BUNDLED, *text.parse(keys.policies()))


def named(keys: KeyService, name: str) -> StoragePolicy | None:
    """The policy of that name; keyd is not asked for a bundled one."""
    return changes.named((), name) or changes.named(text.parse(keys.policies()), name)


def to_assign(keys: KeyService, name: str) -> StoragePolicy:
    """A policy that something is given, by its name or its id. Raises NotFoundError."""
    return changes.named((), name) or find(keys, name)


def find(keys: KeyService, name: str) -> StoragePolicy:
    """By its name or its id. Raises NotFoundError, which names the nearest one."""
    return changes.find(text.parse(keys.policies()), name)


def of_record(keys: KeyService, name: str, state: HomeState) -> StoragePolicy:
    """The policy of what is in that state by a record with that name of a policy."""
    bundled = OF_STATE[state]
    if name in ("", bundled.name):
        return bundled
    known = named(keys, name)
    if known is not None and known.encrypts == bundled.encrypts:
        return known
    return replace(bundled, name=name, id=UNKNOWN_ID, description="")


def new_key(keys: KeyService, record: DatastoreRecord, provider: str | None) -> KeyRef:
    """For a VM of that datastore: of that provider, else of its folder's, else of the datastore's own."""
    if provider is not None:
        return keys.new_key(provider)
    return keys.new_key(record.key.provider, within=record.datastore_id)


def default(keys: KeyService, record: Assigned, state: HomeState) -> StoragePolicy:
    """What a VM gets that is to be in that state: the datastore's own policy where that has it so."""
    if record.default is not state:
        return OF_STATE[state]
    return of_record(keys, record.policy, state)
