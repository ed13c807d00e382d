"""What of a state someone may see."""

from __future__ import annotations

from dataclasses import replace

from ioflt.access import objects
from ioflt.access.decide import decide
from ioflt.access.objects import ANYWHERE, Place, Target, TargetKind
from ioflt.access.principals import Caller
from ioflt.access.privileges import Privilege
from ioflt.access.state import AccessState


def place_of(target: Target, datastore: str | None = None) -> Place:
    """An object as a place. `datastore`: where a VM is, if that is known."""
    match target.kind:
        case TargetKind.EVERYTHING:
            return ANYWHERE
        case TargetKind.FOLDER:
            return Place(None, None, target.shown, target.id)
        case TargetKind.DATASTORE:
            return Place(None, target.id, target.shown)
        case TargetKind.VM:
            return Place(target.id, datastore, target.shown.rpartition("/")[2] or target.shown)


def visible(state: AccessState, caller: Caller) -> AccessState:
    """All roles and services; the folders, and the permissions on objects, that the caller may see.

    Of his own permissions all.
    """

    def sees(target: Target) -> bool:
        return decide(state, caller, Privilege.READ, place_of(target)).allowed

    kept = tuple(each for each in state.permissions if each.principal in caller.all or sees(each.target))
    named = {each.target for each in kept}
    folders = tuple(
        each
        for each in state.folders
        if objects.folder(each.name) in named or sees(objects.folder(each.name))
    )
    return replace(state, permissions=kept, folders=folders)
