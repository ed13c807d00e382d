"""States for hypothesis."""

from __future__ import annotations

import uuid

from hypothesis import strategies as st

from ioflt.access import objects, roles
from ioflt.access.objects import EVERYTHING, Target
from ioflt.access.principals import Kind, Principal
from ioflt.access.privileges import Privilege
from ioflt.access.state import AccessState, Folder, Permission, Service, in_order

_NAMES = ("alice", "bob", "DOM\\carol w", "x@y.example", "1000", "ä")
_UUIDS = tuple(str(uuid.UUID(int=number)) for number in range(6))
_SHOWN = st.text(min_size=1, max_size=20)  # with whatever a path may have in it, lone surrogates too
_ROLES = ("night-shift", "x", "a.b-c")
_FOLDERS = ("tenant", "t2", "a_b")


@st.composite
def states(draw: st.DrawFn) -> AccessState:
    """Any state that is one: names in it are there, nothing is there twice."""
    made = [
        roles.custom(name, draw(st.sets(st.sampled_from(list(Privilege)))))
        for name in sorted(draw(st.sets(st.sampled_from(_ROLES))))
    ]
    services = [
        Service(name, draw(st.none() | st.just(f"{index:064x}")))
        for index, name in enumerate(sorted(draw(st.sets(st.sampled_from(_NAMES)))))
    ]
    members = draw(st.lists(_members(), unique=True))
    folders = []
    for name in sorted(draw(st.sets(st.sampled_from(_FOLDERS)))):
        taken = frozenset(members[: draw(st.integers(0, len(members)))])
        members = [each for each in members if each not in taken]
        folders.append(Folder(name, taken, draw(st.none() | st.just("corp")), draw(st.booleans())))
    principals = [Principal(kind, name) for kind in (Kind.USER, Kind.GROUP) for name in _NAMES]
    principals += [Principal(Kind.SERVICE, each.name) for each in services]
    targets = st.just(EVERYTHING) | _members()
    if folders:
        targets |= st.sampled_from([objects.folder(each.name) for each in folders])
    permissions = st.builds(
        Permission,
        st.sampled_from(principals),
        st.sampled_from([each.id for each in (*roles.BUILT_IN, *made)]),
        targets,
    )
    chosen = draw(st.lists(permissions, unique_by=lambda each: (each.principal, each.target)))
    return AccessState(tuple(made), in_order(chosen), tuple(folders), tuple(services), draw(st.booleans()))


def _members() -> st.SearchStrategy[Target]:
    return st.builds(
        lambda vm, number, shown: (objects.vm if vm else objects.datastore)(number, shown),
        st.booleans(),
        st.sampled_from(_UUIDS),
        _SHOWN,
    )
