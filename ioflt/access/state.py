"""All that is known of who may do what, as one frozen object: `changes` makes new ones, `text` writes it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ioflt.access import objects, roles
from ioflt.access.objects import EVERYTHING, Target, TargetKind
from ioflt.access.principals import Kind, Principal
from ioflt.access.roles import Role
from ioflt.errors import NotFoundError, UsageError
from ioflt.spelling import meant
from ioflt.types import MAX_PROVIDER_NAME

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Permission:
    """`principal` has the role `role` (its id) on `target` and on what is in it."""

    principal: Principal
    role: str
    target: Target


@dataclass(frozen=True, slots=True)
class Folder:
    """A tenant: datastores and VMs, none of which is in another folder.

    `provider`: of the keys of new VMs in its datastores; None: as without a folder. `events`: what
    happens in it goes into an event log of its own, too.
    """

    name: str
    members: frozenset[Target] = frozenset()
    provider: str | None = None
    events: bool = False

    def __post_init__(self) -> None:
        objects.folder(self.name)
        for member in self.members:
            if member.kind not in (TargetKind.DATASTORE, TargetKind.VM):
                raise UsageError(f"a folder lists datastores and VMs, not {member}")
        if self.provider is not None and not 0 < len(self.provider) <= MAX_PROVIDER_NAME:
            raise UsageError(f"not a name of a provider: {ascii(self.provider)[:80]}")


@dataclass(frozen=True, slots=True)
class Service:
    """A principal that is no Unix user. `certificate`: SHA-256 of its client certificate (DER), in hex."""

    name: str
    certificate: str | None = None

    def __post_init__(self) -> None:
        Principal(Kind.SERVICE, self.name)
        if self.certificate is not None and _SHA256.fullmatch(self.certificate) is None:
            raise UsageError(f"not a SHA-256 fingerprint in hex: {ascii(self.certificate)[:80]}")


@dataclass(frozen=True, slots=True)
class AccessState:
    """Sorted tuples, so that states which say the same are equal. `roles` are those that someone made."""

    roles: tuple[Role, ...] = ()
    permissions: tuple[Permission, ...] = ()
    folders: tuple[Folder, ...] = ()
    services: tuple[Service, ...] = ()
    separate_duties: bool = False
    _by_target: dict[Target, tuple[Permission, ...]] = field(init=False, compare=False, repr=False)
    _folder_of: dict[Target, Folder] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        by_target: dict[Target, tuple[Permission, ...]] = {}
        for permission in self.permissions:
            by_target[permission.target] = (*by_target.get(permission.target, ()), permission)
        within = {member: folder for folder in self.folders for member in folder.members}
        object.__setattr__(self, "_by_target", by_target)
        object.__setattr__(self, "_folder_of", within)

    def on(self, target: Target) -> tuple[Permission, ...]:
        """The permissions on just that object."""
        return self._by_target.get(target, ())

    def names(self, target: Target) -> bool:
        """Whether a permission or a folder names the object itself."""
        return target in self._by_target or target in self._folder_of

    def folder_of(self, member: Target) -> Folder | None:
        """The folder that lists it."""
        return self._folder_of.get(member)

    def all_roles(self) -> tuple[Role, ...]:
        return (*roles.BUILT_IN, *self.roles)

    def role(self, role_id: str) -> Role:
        """By its id. Raises NotFoundError, which names the nearest one."""
        for role in self.all_roles():
            if role.id == role_id:
                return role
        near = meant(role_id, [role.id for role in self.all_roles()])
        raise NotFoundError(f"no such role: {role_id}{near}")

    def role_named(self, text: str) -> Role:
        """As someone typed it. Raises NotFoundError."""
        role_id = roles.spelled(text)
        other = roles.OTHER_SPELLINGS.get(role_id)
        return other if other is not None else self.role(role_id)

    def folder(self, name: str) -> Folder:
        """By its name. Raises NotFoundError."""
        for folder in self.folders:
            if folder.name == name:
                return folder
        raise NotFoundError(f"no such folder: {name}{meant(name, [each.name for each in self.folders])}")

    def service(self, name: str) -> Service:
        """By its name. Raises NotFoundError."""
        for service in self.services:
            if service.name == name:
                return service
        raise NotFoundError(f"no such service: {name}{meant(name, [each.name for each in self.services])}")

    def service_of(self, fingerprint: str) -> Service | None:
        """The one with a client certificate of that fingerprint (SHA-256 of the DER, in hex)."""
        return next((each for each in self.services if each.certificate == fingerprint), None)

    def principal_of_certificate(self, der: bytes) -> Principal | None:
        """The service that has this client certificate."""
        found = self.service_of(hashlib.sha256(der).hexdigest())
        return None if found is None else Principal(Kind.SERVICE, found.name)


def first(owner: Principal) -> AccessState:
    """What a new keyd begins with: its own user is Administrator."""
    return AccessState(permissions=(Permission(owner, roles.ADMINISTRATOR.id, EVERYTHING),))


def in_order(permissions: Iterable[Permission]) -> tuple[Permission, ...]:
    """Nearest to the root first."""
    order = list(TargetKind)
    return tuple(
        sorted(permissions, key=lambda each: (order.index(each.target.kind), each.target.id, each.principal))
    )
