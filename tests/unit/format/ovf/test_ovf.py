"""A VM into a VMX and back into an envelope."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.errors import AuthenticationError, MalformedError, UsageError
from ioflt.format import dictionary
from ioflt.format.ovf import guests, manifest, reader, vmx, writer
from ioflt.format.ovf.manifest import Entry
from ioflt.format.ovf.model import (
    STREAM_OPTIMIZED,
    UNITS,
    Attachment,
    Controller,
    Disk,
    Envelope,
    File,
    Hardware,
    Nic,
)

FILE = File("file1", "web01-disk1.vmdk", 65536)
DISK = Disk("vmdisk1", "file1", 15 << 20, STREAM_OPTIMIZED)
WEB01 = Envelope(
    'web01 <&> "ü"',
    (FILE,),
    (DISK,),
    Hardware(
        cpus=2,
        memory_mib=512,
        controllers=(Controller("3", "scsi", 1, "VirtualSCSI"),),
        attachments=(Attachment("3", 0, "vmdisk1"),),
        nics=(Nic("VmxNet3", "VM Network"),),
        firmware="efi",
        system_type="vmx-13",
    ),
    101,
    "debian10_64Guest",
)

WORDS = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=12)
NAMES = st.from_regex(r"[0-9A-Za-z_-]{1,12}", fullmatch=True)


@st.composite
def envelopes(draw: st.DrawFn) -> Envelope:
    kinds = draw(st.lists(st.sampled_from(["ide", "scsi", "sata", "nvme"]), unique=True, max_size=4))
    subtypes = {"ide": "", "scsi": "lsilogic", "sata": "vmware.sata.ahci", "nvme": "vmware.nvme.controller"}
    controllers = tuple(
        Controller(str(n + 3), kind, draw(st.integers(0, 1)), subtypes[kind]) for n, kind in enumerate(kinds)
    )
    files = tuple(
        File(f"f{n}", name, draw(st.none() | st.integers(0, 1 << 62)))
        for n, name in enumerate(draw(st.lists(NAMES, max_size=3)))
    )
    disks = tuple(Disk(f"d{n}", file.id, draw(st.integers(0, 1 << 62)), "f") for n, file in enumerate(files))
    places = st.sampled_from(controllers).flatmap(
        lambda c: st.tuples(st.just(c.instance), st.integers(0, UNITS[c.kind] - 1))
    )
    taken = draw(st.lists(places, unique=True, max_size=len(disks))) if controllers else []
    return Envelope(
        draw(WORDS),
        files,
        disks,
        Hardware(
            draw(st.integers(1, 1024)),
            draw(st.integers(1, 1 << 26)),
            controllers,
            tuple(
                Attachment(instance, unit, disk.id)
                for (instance, unit), disk in zip(taken, disks, strict=False)
            ),
            tuple(Nic("E1000", name) for name in draw(st.lists(WORDS, max_size=2))),
            draw(st.sampled_from(["bios", "efi"])),
            draw(st.sampled_from(["", "vmx-10"])),
        ),
        draw(st.integers(0, 65535)),
        draw(st.none() | WORDS),
    )


@given(envelopes())
def test_what_is_written_is_read(envelope: Envelope) -> None:
    assert reader.parse(writer.write(envelope)) == envelope


def test_vmx() -> None:
    lines = dictionary.parse(vmx.vmx_of(WEB01, {"vmdisk1": "disk.vmdk"}))
    assert lines["config.version"] == "8"
    assert lines["virtualHW.version"] == "13"
    assert lines["displayName"] == WEB01.name
    assert lines["guestOS"] == "debian10-64"
    assert (lines["memsize"], lines["numvcpus"], lines["firmware"]) == ("512", "2", "efi")
    assert (lines["scsi1.virtualDev"], lines["scsi1:0.fileName"]) == ("pvscsi", "disk.vmdk")
    assert (lines["ethernet0.virtualDev"], lines["ethernet0.networkName"]) == ("vmxnet3", "VM Network")


def test_there_and_back() -> None:
    lines = dictionary.parse(vmx.vmx_of(WEB01, {"vmdisk1": "disk.vmdk"}))
    assert vmx.envelope_of(lines, {"disk.vmdk": (FILE, DISK.capacity)}) == WEB01


def test_drives_that_are_no_disks_are_left_behind() -> None:
    lines = dictionary.parse(
        b'ide1:0.fileName = "cd.iso"\nide1:0.deviceType = "cdrom-image"\n'
        b'scsi0:1.present = "FALSE"\nscsi0:1.fileName = "old.vmdk"\nsata0:0.fileName = "disk.vmdk"\n'
    )
    envelope = vmx.envelope_of(lines, {"disk.vmdk": (FILE, 512)})
    assert [c.kind for c in envelope.hardware.controllers] == ["sata"]
    assert len(envelope.disks) == 1


def test_export_without_a_disk_is_refused() -> None:
    lines = dictionary.parse(vmx.vmx_of(WEB01, {"vmdisk1": "disk.vmdk"}))
    with pytest.raises(UsageError, match=r"disk\.vmdk"):
        vmx.envelope_of(lines, {})
    with pytest.raises(UsageError, match="numvcpus"):
        vmx.envelope_of(lines.set("numvcpus", "two"), {"disk.vmdk": (FILE, 1)})
    with pytest.raises(MalformedError, match="bad controller"):
        vmx.envelope_of(dictionary.parse(b"scsi7:0.fileName = a.vmdk"), {"a.vmdk": (FILE, 1)})


def test_import_names_are_confined() -> None:
    with pytest.raises(MalformedError, match="disk name not confined"):
        vmx.vmx_of(WEB01, {"vmdisk1": "../disk.vmdk"})
    with pytest.raises(UsageError, match="vmdisk1"):
        vmx.vmx_of(WEB01, {})


def test_a_hostile_name_stays_one_line() -> None:
    evil = Envelope('x"\nscsi0:0.fileName = "/etc/shadow', (), (), Hardware(1, 4))
    lines = dictionary.parse(vmx.vmx_of(evil, {}))
    assert lines["displayName"] == evil.name
    assert "scsi0:0.fileName" not in lines


def test_characters_that_xml_lacks() -> None:
    with pytest.raises(UsageError, match=r"U\+0001"):
        writer.write(Envelope("a\x01", (), (), Hardware(1, 4)))


@pytest.mark.parametrize(
    ("os_type", "name"),
    [
        ("otherGuest", "other"),
        ("otherGuest64", "other-64"),
        ("otherLinux64Guest", "otherlinux-64"),
        ("debian10_64Guest", "debian10-64"),
        ("ubuntu64Guest", "ubuntu-64"),
        ("windows9_64Guest", "windows9-64"),
        ("windows9Server64Guest", "windows9srv-64"),
    ],
)
def test_guest_names(os_type: str, name: str) -> None:
    assert guests.vmx_name(os_type, 1) == name
    assert guests.os_type(name) == os_type


def test_guests_without_a_name() -> None:
    assert guests.vmx_name(None, 96) == "debian5-64"
    assert guests.vmx_name(None, 9999) == "other"
    assert guests.os_type("beos-64") == "otherGuest64"


def test_manifest_verifies() -> None:
    data = {"a.ovf": b"envelope", "b.vmdk": b"disk"}
    entries = [Entry(name, "SHA256", hashlib.sha256(content).digest()) for name, content in data.items()]

    def digest_of(name: str, algorithm: str) -> bytes | None:
        return hashlib.new(manifest.ALGORITHMS[algorithm][0], data[name]).digest() if name in data else None

    manifest.verify(manifest.parse(manifest.write(entries)), digest_of)
    data["b.vmdk"] += b"!"
    with pytest.raises(AuthenticationError, match=r"b\.vmdk"):
        manifest.verify(entries, digest_of)
    del data["a.ovf"]
    with pytest.raises(MalformedError, match="missing"):
        manifest.verify(entries, digest_of)
