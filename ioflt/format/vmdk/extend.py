"""The descriptor of a flat disk that becomes longer: all other bytes stay as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ioflt.errors import UnsupportedError, UsageError
from ioflt.format.vmdk import descriptor
from ioflt.format.vmdk.descriptor import NO_PARENT, Descriptor, Extent

_EXTENT = re.compile(rb"^([ \t]*[A-Z]+ +)([0-9]+)( +(?:FLAT|VMFS) )", re.MULTILINE)

#: Most sectors of a disk: 64 TiB.
_MAX_SECTORS = (64 << 40) // 512

#: Cylinders are a number of 16 bits wherever they are used.
_MAX_CYLINDERS = 0xFFFF

#: (cylinders, heads, sectors): keys of `ddb`.
_GEOMETRIES = (
    ("geometry.cylinders", "geometry.heads", "geometry.sectors"),
    ("geometry.biosCylinders", "geometry.biosHeads", "geometry.biosSectors"),
)


def sole_extent(parsed: Descriptor) -> Extent:
    """The extent of a disk that can be made longer.

    Raises UnsupportedError: "has a parent", "has change tracking", "several extents", "not a flat disk".
    """
    if parsed.parent_cid != NO_PARENT or parsed.parent_file_name_hint is not None:
        raise UnsupportedError("has a parent", "the state after a snapshot")
    if parsed.change_track_path is not None:
        raise UnsupportedError("has change tracking", f"{parsed.change_track_path}, for the length of now")
    if len(parsed.extents) != 1:
        raise UnsupportedError("several extents", str(len(parsed.extents)))
    (extent,) = parsed.extents
    if extent.kind not in ("FLAT", "VMFS"):
        raise UnsupportedError("not a flat disk", extent.kind)
    return extent


def extended(text: bytes, own_name: str, sectors: int) -> bytes:
    """The descriptor of the same disk with that many sectors of 512 bytes: more than now.

    Raises what `descriptor.parse` and `sole_extent` raise; UsageError for fewer sectors, or too many.
    """
    text = descriptor.text_of(text)
    parsed = descriptor.parse(text, own_name)
    if sectors <= sole_extent(parsed).sectors:
        raise UsageError(f"has {parsed.sectors * 512} bytes: a disk only becomes longer")
    if sectors > _MAX_SECTORS:
        raise UsageError(f"{sectors * 512} bytes: a disk has at most {_MAX_SECTORS * 512}")
    made, count = _EXTENT.subn(rb"\g<1>%d\g<3>" % sectors, text)
    if count != 1:
        raise UnsupportedError("odd extent line")
    for cylinders, heads, per_track in _GEOMETRIES:
        track = _number(parsed.ddb, heads) * _number(parsed.ddb, per_track)
        if track > 0 and cylinders in parsed.ddb:
            count = max(1, min(sectors // track, _MAX_CYLINDERS))
            line = re.compile(rb'^(ddb\.%s *= *")[^"\n]*(")' % re.escape(cylinders).encode(), re.MULTILINE)
            made = line.sub(rb"\g<1>%d\g<2>" % count, made)
    descriptor.parse(made, own_name)
    return made


def _number(ddb: Mapping[str, str], key: str) -> int:
    text = ddb.get(key, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
