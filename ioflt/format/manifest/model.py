"""What a manifest says. It is checked when it is read: whoever has the destination may have written it."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

Meta = msgspec.Meta

#: A moment: the name of a point, and of its directory.
Point = Annotated[str, Meta(pattern=r"^[0-9]{8}T[0-9]{6}Z$")]

#: Longest text, in characters, where nothing else is said.
MAX_TEXT: Final = 1024

Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Path = Annotated[str, Meta(min_length=1, max_length=4095)]
HomeId = Annotated[str, Meta(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]
#: Permissions, no more: what is made of it never runs as somebody else.
Mode = Annotated[int, Meta(ge=0, le=0o777)]
#: Of a user or a group.
Number = Annotated[int, Meta(ge=0, lt=2**32 - 1)]
Nanoseconds = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]

#: How the destination keeps what it was given.
Kind = Literal["encrypted", "clear", "ciphertext"]

#: What a disk was in the VM's home: what it becomes again. A container is stored as it is.
Form = Literal["raw", "qcow2", "vmdk", "container"]

#: As of when the point is, and how sure a guest may be of it.
Consistency = Literal["powered off", "crash-consistent", "file-system-consistent (guest agent)"]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Strict."""


class Disk(_Part, frozen=True):
    """One disk, or one container. `image`: its qcow2 file in the point's directory.

    `capacity`: bytes of the disk, or of the container's file. `parent`: the point whose image of the same
    name has what this one has not; None for a full one. `stored`, `sha256`: of the image file. `content`: the
    digest of what the image holds (SPEC.md). `ddb`: of a VMDK, its descriptor's entries of that name.
    """

    path: Path
    form: Form
    capacity: Size
    image: Path
    parent: Point | None
    stored: Size
    sha256: Digest
    content: Digest
    change_id: Text | None
    mode: Mode
    uid: Number
    gid: Number
    mtime: Nanoseconds
    ddb: dict[Text, Text]


class File(_Part, frozen=True):
    """A file as it was, at `files/PATH`. Size and digest are those of what its reader gets."""

    path: Path
    size: Size
    mode: Mode
    uid: Number
    gid: Number
    mtime: Nanoseconds
    sha256: Digest


class Directory(_Part, frozen=True):
    path: Path
    mode: Mode
    uid: Number
    gid: Number
    mtime: Nanoseconds


class Link(_Part, frozen=True):
    """A symlink, which stays inside the home."""

    path: Path
    target: Path
    uid: Number
    gid: Number


class Top(_Part, frozen=True):
    """The directory of the VM itself."""

    mode: Mode
    uid: Number
    gid: Number


class Key(_Part, frozen=True):
    provider: Annotated[str, Meta(min_length=1, max_length=128)]
    key_id: Annotated[str, Meta(min_length=1, max_length=1024)]


class Manifest(_Part, frozen=True):
    """One point of one VM. `notes`: what else somebody should know, in plain words."""

    vm: Annotated[str, Meta(min_length=1, max_length=255)]
    point: Point
    kind: Kind
    home_id: HomeId
    state: Literal["encrypted", "clear"]
    policy: Text
    thick: bool
    integrity: bool
    keys: Annotated[tuple[Key, ...], Meta(max_length=8)]
    host: Text
    by: Text
    transport: Annotated[str, Meta(min_length=1, max_length=16)]
    consistency: Consistency
    notes: Annotated[tuple[Text, ...], Meta(max_length=1024)]
    top: Top
    disks: Annotated[tuple[Disk, ...], Meta(max_length=65536)]
    files: Annotated[tuple[File, ...], Meta(max_length=65536)]
    directories: Annotated[tuple[Directory, ...], Meta(max_length=65536)]
    links: Annotated[tuple[Link, ...], Meta(max_length=65536)]

    @property
    def full(self) -> bool:
        """Whether it needs no other point."""
        return all(disk.parent is None for disk in self.disks)

    @property
    def parents(self) -> set[str]:
        """The points that it needs directly."""
        return {disk.parent for disk in self.disks if disk.parent is not None}

    @property
    def stored(self) -> int:
        """Bytes that it takes in the destination."""
        return sum(disk.stored for disk in self.disks) + sum(file.size for file in self.files)


class Signed(_Part, frozen=True):
    """What keyd stated of the manifest's digest, its signature of that, and its public key, in PEM."""

    statement: Annotated[str, Meta(max_length=32 << 10)]
    signature: Annotated[str, Meta(pattern=r"^[0-9a-f]{128}$")]
    key: Annotated[str, Meta(max_length=1024)]


class Document(_Part, frozen=True):
    """The file `manifest.json`."""

    format: int
    manifest: Manifest
    signed: Signed
