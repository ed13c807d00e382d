"""The text descriptor of a VMDK, read strictly: it names files, and whoever writes the datastore writes it.

A name in a descriptor is one bare file name in the descriptor's own directory, or the descriptor is refused
(CVE-2022-47951 and its family).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from ioflt.errors import MalformedError, UnsupportedError
from ioflt.format import dictionary
from ioflt.format.dictionary import Line

#: Longest descriptor accepted, in bytes.
MAX_SIZE: Final = 1 << 20

#: Most extents accepted: 2 GiB pieces of a 62 TiB disk, and room.
MAX_EXTENTS: Final = 1 << 16

#: `parentCID` of a disk without a parent.
NO_PARENT: Final = 0xFFFFFFFF

MAGIC: Final = b"# Disk DescriptorFile"

_MAX_SECTORS: Final = (1 << 63) // 512  # the largest file offset, in 512-byte sectors
_MAX_NAME: Final = 255
_MAX_LEFT: Final = 6  # bytes that a CID of 1 digit instead of 8 leaves of the text of before

_CREATE_TYPES: Final = frozenset(
    {
        "monolithicSparse",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "streamOptimized",
        "vmfs",
        "vmfsSparse",
        "vmfsThin",
        "vmfsEagerZeroedThick",
        "vmfsPreallocated",
        "seSparse",
    }
)
_EXTENT_TYPES: Final = frozenset({"FLAT", "SPARSE", "ZERO", "VMFS", "VMFSSPARSE", "SESPARSE"})
_EXTENT = re.compile(
    r"(?P<access>[A-Z]+) +(?P<sectors>[0-9]{1,20}) +(?P<kind>[A-Z]+)"
    r'(?: +"(?P<name>[^"]*)"(?: +(?P<offset>[0-9]{1,20}))?)?\s*',
    re.ASCII,
)


class Access(Enum):
    """What the guest may do with an extent."""

    READ_WRITE = "RW"
    READ_ONLY = "RDONLY"
    NONE = "NOACCESS"


@dataclass(frozen=True, slots=True)
class Extent:
    """`sectors` and `offset` count 512 bytes. `file_name` is None for ZERO only, and confined.

    The name is the descriptor's bytes decoded as UTF-8 with stray bytes as surrogates, as `os.fsdecode` does.
    """

    access: Access
    sectors: int
    kind: str
    file_name: str | None
    offset: int


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A disk: its content id, its parent's, its extents in order. `ddb` has the keys without their `ddb.`."""

    version: int
    cid: int
    parent_cid: int
    create_type: str
    parent_file_name_hint: str | None
    change_track_path: str | None
    extents: tuple[Extent, ...]
    ddb: Mapping[str, str]

    @property
    def sectors(self) -> int:
        """The disk's capacity in 512-byte sectors."""
        return sum(extent.sectors for extent in self.extents)

    @property
    def file_names(self) -> tuple[str, ...]:
        """Every file the descriptor names: extents, parent, change tracking."""
        extents = (extent.file_name for extent in self.extents)
        return tuple(
            n for n in (*extents, self.parent_file_name_hint, self.change_track_path) if n is not None
        )


def is_descriptor(first_bytes: bytes) -> bool:
    """Whether a file that starts so says it is a descriptor."""
    return first_bytes.lstrip(b" \t\r\n").startswith(MAGIC)


def text_of(data: bytes) -> bytes:
    """The text of the descriptor in `data`, without what stands after its end.

    That is NULs, and what a rewrite in place leaves: QEMU writes a new CID without leading zeros over the old
    one, and a text that is n bytes shorter, with its NUL, leaves the last n - 1 bytes of the longer one.

    Raises MalformedError: "too large", "no descriptor header", "NUL byte".
    """
    if len(data) > MAX_SIZE:
        raise MalformedError("too large", f"descriptor of {len(data)} bytes, at most {MAX_SIZE}")
    text, _, rest = data.partition(b"\0")
    if not is_descriptor(text):
        raise MalformedError("no descriptor header")
    rest = rest.rstrip(b"\0")
    if len(rest) > _MAX_LEFT or not text.endswith(rest):
        raise MalformedError("NUL byte")
    return text


def parse(data: bytes, own_name: str | None = None) -> Descriptor:
    """The descriptor in `data`. `own_name` is the text file it stands in.

    Keys that are not known here are passed over. Raises what `text_of` raises; MalformedError: "odd line",
    "duplicate key", "missing key", "bad CID", "bad extent", "too many extents", "no extents", "sector count
    overflow", "extent name not confined", "parent name not confined", "change track name not confined";
    UnsupportedError: "unknown version", "unknown createType", "unknown extent type".
    """
    text = text_of(data)
    header: dict[str, str] = {}
    ddb: dict[str, str] = {}
    extents: list[Extent] = []
    for line in dictionary.parse(text).lines:
        if line.key is not None:
            _keep(line, line.key, header, ddb)
        elif (content := line.raw.strip()) and not content.startswith(b"#"):
            extents.append(_extent(content.decode("utf-8", "surrogateescape"), own_name))
            if len(extents) > MAX_EXTENTS:
                raise MalformedError("too many extents", f"more than {MAX_EXTENTS}")
    return _descriptor(header, ddb, extents, own_name)


def _keep(line: Line, key: str, header: dict[str, str], ddb: dict[str, str]) -> None:
    folded = key.lower()
    target, name = (ddb, key[len("ddb.") :]) if folded.startswith("ddb.") else (header, folded)
    if name in target:
        raise MalformedError("duplicate key", key[:40])
    target[name] = line.value


def _descriptor(
    header: dict[str, str], ddb: dict[str, str], extents: list[Extent], own_name: str | None
) -> Descriptor:
    version = _need(header, "version")
    if version not in ("1", "2", "3"):
        raise UnsupportedError("unknown version", repr(version[:20]))
    create_type = _need(header, "createtype")
    if create_type not in _CREATE_TYPES:
        raise UnsupportedError("unknown createType", repr(create_type[:40]))
    if not extents:
        raise MalformedError("no extents")
    if sum(extent.sectors for extent in extents) > _MAX_SECTORS:
        raise MalformedError("sector count overflow")
    return Descriptor(
        version=int(version),
        cid=_cid(_need(header, "cid")),
        parent_cid=_cid(header.get("parentcid", f"{NO_PARENT:x}")),
        create_type=create_type,
        parent_file_name_hint=_confined_value(header, "parentfilenamehint", "parent", own_name),
        change_track_path=_confined_value(header, "changetrackpath", "change track", own_name),
        extents=tuple(extents),
        ddb=MappingProxyType(ddb),
    )


def _need(header: dict[str, str], key: str) -> str:
    try:
        return header[key]
    except KeyError:
        raise MalformedError("missing key", key) from None


def _cid(text: str) -> int:
    if not re.fullmatch(r"[0-9A-Fa-f]{1,8}", text, re.ASCII):
        raise MalformedError("bad CID", repr(text[:20]))
    return int(text, 16)


def _extent(text: str, own_name: str | None) -> Extent:
    match = _EXTENT.fullmatch(text)
    if match is None:
        raise MalformedError("odd line", repr(text[:60]))
    try:
        access = Access(match["access"])
    except ValueError:
        raise MalformedError("odd line", repr(text[:60])) from None
    kind, name = match["kind"], match["name"]
    if kind not in _EXTENT_TYPES:
        raise UnsupportedError("unknown extent type", repr(kind[:20]))
    if (name is None) != (kind == "ZERO") or (kind == "FLAT" and match["offset"] is None):
        raise MalformedError("bad extent", repr(text[:60]))
    if name is not None:
        confine(name, "extent", own_name)
    sectors, offset = int(match["sectors"]), int(match["offset"] or 0)
    if sectors > _MAX_SECTORS or offset + sectors > _MAX_SECTORS:
        raise MalformedError("sector count overflow")
    return Extent(access, sectors, kind, name, offset)


def _confined_value(header: dict[str, str], key: str, what: str, own_name: str | None) -> str | None:
    name = header.get(key)
    return None if not name else confine(name, what, own_name)


def confine(name: str, what: str, own_name: str | None = None) -> str:
    """`name`, if it is a bare file name and not `own_name`. Raises MalformedError "<what> name not confined".

    A backslash and a drive's colon are refused as well: such a name was a path where it was written.
    """
    bare = 0 < len(name.encode("utf-8", "surrogateescape")) <= _MAX_NAME and name not in (".", "..")
    if not bare or re.search(r'[/\\\x00-\x1f\x7f"]|^[A-Za-z]:', name) or name == own_name:
        raise MalformedError(f"{what} name not confined", repr(name[:60]))
    return name
