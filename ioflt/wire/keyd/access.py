"""Of the keyd protocol: who may do what. Names are text here; `ioflt.access` says which mean something."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

Meta = msgspec.Meta

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Privileges = Annotated[tuple[Name, ...], Meta(max_length=256)]
Fingerprint = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Uuid = Annotated[str, Meta(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]


class Object(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a permission is on: `id` is a UUID, a folder's name, or empty.

    `datastore`: of a VM, when it is known.
    """

    kind: Literal["everything", "folder", "datastore", "vm"]
    id: Annotated[str, Meta(max_length=64)]
    shown: Annotated[str, Meta(min_length=1, max_length=4096)]
    datastore: Uuid | None = None


class _Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="change", tag=str.lower):
    """A change of who may do what, told apart by its `change`."""


class Grant(_Change, frozen=True):
    """In place of what `who` has on that object."""

    who: Name
    role: Name
    on: Object


class Revoke(_Change, frozen=True):
    who: Name
    on: Object


class CreateRole(_Change, frozen=True):
    """`like`: a role whose privileges it has as well."""

    name: Name
    privileges: Privileges
    like: Name | None = None


class RemoveRole(_Change, frozen=True):
    name: Name


class CreateFolder(_Change, frozen=True, omit_defaults=True):
    """`events`: it has an event log of its own."""

    name: Name
    provider: Name | None
    events: bool = False


class SetFolder(_Change, frozen=True):
    """What is left out stays as it is."""

    name: Name
    provider: Name | UnsetType | None = UNSET
    events: bool | UnsetType = UNSET


class RemoveFolder(_Change, frozen=True):
    name: Name


class AddMember(_Change, frozen=True):
    folder: Name
    member: Object


class RemoveMember(_Change, frozen=True):
    folder: Name
    member: Object


class CreateService(_Change, frozen=True):
    """`certificate`: SHA-256 of the DER."""

    name: Name
    certificate: Fingerprint | None


class RemoveService(_Change, frozen=True):
    name: Name


class SeparateDuties(_Change, frozen=True):
    """Administrator goes; its two halves are theirs."""

    key_admin: Name
    vm_admin: Name


Change = (
    Grant
    | Revoke
    | CreateRole
    | RemoveRole
    | CreateFolder
    | SetFolder
    | RemoveFolder
    | AddMember
    | RemoveMember
    | CreateService
    | RemoveService
    | SeparateDuties
)
