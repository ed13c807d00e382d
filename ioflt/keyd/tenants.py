"""Which folders that have event logs of their own hear of an event.

A VM is in the folder that lists it, else in the one that lists its datastore, as permissions have it. A key
is where the VMs and datastores are that have it, as far as their records were shown. What is about a folder
itself, or changes what is said of it, is in that folder; so its log begins and ends with who asked for that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from ioflt.access.objects import Target, TargetKind
from ioflt.access.state import AccessState, Folder
from ioflt.audit.event import Event, Thing
from ioflt.audit.excerpt import excerpt
from ioflt.errors import IofltError, UsageError
from ioflt.keyd.authority import Authority
from ioflt.keyd.holdings import Holdings
from ioflt.types import KeyRef

#: What `access.differences` calls the values of a folder.
_OF_FOLDER: Final = re.compile(r'access\.folder\("([^"]+)"\)\.([a-z]+)')


class Tenants:
    """By the permissions and records that keyd knows. Safe for calls from several threads."""

    def __init__(self, authority: Authority, holdings: Holdings) -> None:
        self._authority = authority
        self._holdings = holdings

    def hear(self, event: Event) -> Mapping[str, Event]:
        """By the name of each folder that hears of it: the event as its log has it.

        None does while nobody can say what they list, and nobody may do anything but who can mend that.
        """
        try:
            state = self._authority.state
        except IofltError:
            return {}
        names = {each.name for each in self._about(state, event) if each is not None and each.events}
        if not event.reported:  # by whom anything could be said to be listed
            names |= set(_changed(state, event))
        within = None if event.datastore is None else _lists(state, TargetKind.DATASTORE, event.datastore.id)
        return {
            name: excerpt(event, whole=within is not None and within.name == name) for name in sorted(names)
        }

    def _about(self, state: AccessState, event: Event) -> Iterator[Folder | None]:
        about = event.object
        if about is None:
            return
        if about.kind == "vm":
            yield _of_vm(state, about.id, self._datastore_of(about.id, event.datastore))
        elif about.kind == "datastore":
            yield _lists(state, TargetKind.DATASTORE, about.id)
        elif about.kind == "folder":
            yield from (each for each in state.folders if each.name == about.id)
        elif about.kind == "key":
            provider, _, key_id = about.id.partition(":")
            for owner in self._holdings.owners(KeyRef(provider, key_id)):
                yield _of_vm(state, owner.vm, owner.datastore)

    def _datastore_of(self, vm: str, said: Thing | None) -> str:
        """By the VM's record that is believed, before what the event says."""
        known = self._holdings.home(vm)
        if known is not None:
            return known.datastore
        return "" if said is None else said.id


def _of_vm(state: AccessState, vm: str | None, datastore: str) -> Folder | None:
    own = None if vm is None else _lists(state, TargetKind.VM, vm)
    return own or _lists(state, TargetKind.DATASTORE, datastore)


def _lists(state: AccessState, kind: TargetKind, ident: str) -> Folder | None:
    """The folder that lists it; None as well for what is no id, as a report may say."""
    try:
        return state.folder_of(Target(kind, ident, ident))
    except UsageError:
        return None


def _changed(state: AccessState, event: Event) -> Iterator[str]:
    """Of which something is said anew, or that they have a log from now on."""
    having = {each.name for each in state.folders if each.events}
    for change in event.changes:
        found = _OF_FOLDER.fullmatch(change.path)
        if found is not None and (found[1] in having or (found[2] == "events" and change.after is True)):
            yield found[1]
