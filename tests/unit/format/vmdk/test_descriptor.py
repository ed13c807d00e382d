"""What a descriptor says, and that no text makes the parser do anything but read or refuse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.errors import CorruptDataError, MalformedError
from ioflt.format.vmdk import descriptor, sparse
from ioflt.format.vmdk.descriptor import Access, Extent

CHILD = b"""# Disk DescriptorFile
version=3
encoding="UTF-8"
CID=fffffffe
parentCID=0000000a
isNativeSnapshot="no"
createType="vmfsSparse"
parentFileNameHint="web01.vmdk"
changeTrackPath="web01-000001-ctk.vmdk"

RW 4194304 VMFSSPARSE "web01-000001-delta.vmdk"
RDONLY 8 FLAT "\xff-f001.vmdk" 16
NOACCESS 2 ZERO

ddb.longContentID = "00"
"""


def test_fields() -> None:
    disk = descriptor.parse(CHILD, "web01-000001.vmdk")
    assert (disk.version, disk.cid, disk.parent_cid, disk.create_type) == (3, 0xFFFFFFFE, 10, "vmfsSparse")
    assert disk.extents == (
        Extent(Access.READ_WRITE, 4194304, "VMFSSPARSE", "web01-000001-delta.vmdk", 0),
        Extent(Access.READ_ONLY, 8, "FLAT", "\udcff-f001.vmdk", 16),
        Extent(Access.NONE, 2, "ZERO", None, 0),
    )
    assert disk.sectors == 4194314
    assert disk.file_names[2:] == ("web01.vmdk", "web01-000001-ctk.vmdk")
    assert dict(disk.ddb) == {"longContentID": "00"}


def test_a_disk_without_parent() -> None:
    disk = descriptor.parse(CHILD.replace(b"parentCID=0000000a\n", b""))
    assert disk.parent_cid == descriptor.NO_PARENT


@given(st.lists(st.sampled_from(CHILD.splitlines(keepends=True)) | st.binary(max_size=20)).map(b"".join))
def test_hostile_text_is_read_or_refused(data: bytes) -> None:
    try:
        disk = descriptor.parse(data)
    except CorruptDataError:
        return
    assert all("/" not in name and "\0" not in name for name in disk.file_names)


@given(st.text(max_size=40))
def test_confined_names_stay_in_their_directory(name: str) -> None:
    try:
        confined = descriptor.confine(name, "x")
    except MalformedError:
        return
    assert confined == name
    assert not set(name) & set("/\\\0")
    assert name not in ("", ".", "..")


@given(st.binary(max_size=600))
def test_hostile_headers_are_read_or_refused(data: bytes) -> None:
    for first in (data, b"KDMV" + data):
        try:
            sparse.descriptor_of(first)
        except CorruptDataError:
            continue


def test_what_has_no_descriptor() -> None:
    assert sparse.descriptor_of(b"") is None
    assert sparse.descriptor_of(bytes(512)) is None
    assert sparse.descriptor_of(b"COWD" + bytes(508)) is None
    assert sparse.descriptor_of(CHILD + bytes(9)) == CHILD
    assert not descriptor.is_descriptor(b"version=1")
    with pytest.raises(MalformedError, match="bad magic"):
        sparse.parse(CHILD)
