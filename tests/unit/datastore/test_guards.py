"""What is not encrypted is refused with its reason, by every way in, and nothing is changed then."""

import logging
import os
import shutil
from pathlib import Path

import pytest

from ioflt.datastore import assign, clone, compliance, lifecycle, move, transfer
from ioflt.datastore.deep import home as deep
from ioflt.datastore.volume import Volume
from ioflt.errors import BusyError, UsageError
from ioflt.format import dictionary
from ioflt.format.vmdk import rawdevice
from ioflt.format.vmx import devices
from ioflt.policy.bundled import DATASTORE_DEFAULT, VM_ENCRYPTION
from ioflt.types import HomeState

GUARDED = Path(__file__).parent / "guarded"

#: Files of a VM that is not encrypted, and why.
REFUSED = {
    "an RDM": (["rdm.vmdk"], r"rdm.vmdk: RDM: .* \(vmfsPassthroughRawDeviceMap\)"),
    "a raw disk": (["raw.vmdk"], r"raw.vmdk: RDM: .* \(vmfsRaw\)"),
    "a multi-writer disk": (
        ["multi-writer.vmx"],
        r"shared.vmdk: multi-writer: .* \(scsi1:0 in multi-writer.vmx\)",
    ),
}


def put(directory, names):
    """A VM's directory with these files, and a disk."""
    os.makedirs(directory, exist_ok=True)
    for name in names:
        shutil.copy(GUARDED / name, directory)
    Path(directory, "disk-flat.vmdk").write_bytes(b"secret" * 1000)


@pytest.fixture
def clear(tmp_path, keys):
    """A datastore whose VMs are clear."""
    Volume.init(tmp_path / "clear", HomeState.CLEAR, keys)
    with Volume.open(tmp_path / "clear", keys) as volume:
        yield volume


@pytest.fixture
def encrypting(tmp_path, keys):
    Volume.init(tmp_path / "encrypting", HomeState.ENCRYPTED, keys)
    with Volume.open(tmp_path / "encrypting", keys) as volume:
        yield volume


@pytest.fixture
def vm(clear):
    """A function: a clear VM with these files."""

    def make(names):
        clear.make_home("vm", 0o755)
        put(f"{clear.path}/vm", names)
        return "vm"

    return make


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_by_every_way_in(what, clear, encrypting, vm, tmp_path, fingerprint):
    names, why = REFUSED[what]
    name = vm(names)
    put(tmp_path / "outside", names)
    before = fingerprint(f"{clear.path}/vm")
    ways = [
        lambda: lifecycle.encrypt(clear, name),
        lambda: lifecycle.encrypt(clear, name, force=True),  # that is for marks alone
        lambda: assign.to_home(clear, name, VM_ENCRYPTION),
        lambda: clone.clone(clear, name, encrypting, "copy"),
        lambda: clone.clone(clear, name, clear, "copy", policy=VM_ENCRYPTION),
        lambda: move.move(clear, name, encrypting, "there"),
        lambda: transfer.import_directory(encrypting, tmp_path / "outside", "in"),
        lambda: transfer.import_directory(clear, tmp_path / "outside", "in", policy=VM_ENCRYPTION),
    ]
    for way in ways:
        with pytest.raises(UsageError, match=why):
            way()
    assert fingerprint(f"{clear.path}/vm") == before
    assert (clear.homes(), encrypting.homes()) == (["vm"], [])
    # clear it may be
    clone.clone(clear, name, clear, "copy")
    transfer.import_directory(clear, tmp_path / "outside", "in")
    assert compliance.look(clear) == []


@pytest.mark.parametrize("by_descriptor", [False, True])
def test_no_encrypted_disk_comes_into_a_clear_vm(clear, encrypting, vm, tmp_path, by_descriptor):
    """A VMX, or a descriptor that it names, attaches a container."""
    transfer_from = tmp_path / "outside"
    put(transfer_from, ["plain.vmx"])
    disk = "plain-flat.vmdk" if by_descriptor else "plain.vmdk"
    descriptor = b'# Disk DescriptorFile\nversion=1\nCID=1\ncreateType="vmfs"\nRW 8 VMFS "plain-flat.vmdk"\n'
    os.rename(transfer_from / "disk-flat.vmdk", transfer_from / disk)
    transfer.import_directory(encrypting, transfer_from, "sealed")
    for directory in (transfer_from, Path(clear.path, vm(["plain.vmx"]))):
        shutil.copy(f"{encrypting.path}/sealed/{disk}", directory / disk)
        if by_descriptor:
            (directory / "plain.vmdk").write_bytes(descriptor)
    for way in (
        lambda: lifecycle.encrypt(clear, "vm"),
        lambda: assign.to_home(clear, "vm", VM_ENCRYPTION),
        lambda: transfer.import_directory(clear, transfer_from, "in"),
        lambda: transfer.import_directory(encrypting, transfer_from, "in"),
    ):
        with pytest.raises(UsageError, match=f"{disk}: encrypted disk in a clear VM"):
            way()
    (found,) = compliance.look(clear)
    assert (found.path, found.what, found.found) == (f"{clear.path}/vm", f"disk {disk}", "encrypted")


def test_what_a_guest_encrypts_for_itself_is_no_encrypted_disk(clear, vm):
    name = vm(["plain.vmx"])
    Path(clear.path, name, "plain.vmdk").write_bytes(b"LUKS\xba\xbe\x00\x02" + bytes(8192))
    lifecycle.encrypt(clear, name)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("serial-file.vmx", ["serial0 writes to the file 'console.log'"]),
        ("parallel-file.vmx", ["parallel0 writes to the file '/vmfs/volumes/logs/lpt.out'"]),
        ("plain.vmx", []),
    ],
)
@pytest.mark.allow_log("writes to the file")
def test_output_of_ports_is_warned_of(clear, encrypting, vm, tmp_path, caplog, name, told):
    put(tmp_path / "outside", [name])
    ways = [
        lambda: lifecycle.encrypt(clear, vm([name])),
        lambda: transfer.import_directory(encrypting, tmp_path / "outside", "in"),
    ]
    for way in ways:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            way()
        found = [record.getMessage() for record in caplog.records]
        assert len(found) == len(told)
        assert all(part in message and name in message for part, message in zip(told, found, strict=True))


def test_the_vm_that_the_keys_come_from_is_not_encrypted(clear, encrypting, keys, vm, fingerprint):
    name = vm(["plain.vmx"])
    keys.mark_key_holder(clear.home(name).standing().record.home_id, holds=True)
    before = fingerprint(f"{clear.path}/vm")
    for way in (
        lambda: lifecycle.encrypt(clear, name),
        lambda: assign.to_home(clear, name, VM_ENCRYPTION),
        lambda: move.move(clear, name, encrypting, "there"),
    ):
        with pytest.raises(UsageError, match="vm: marked as the VM that the keys come from"):
            way()
    assert fingerprint(f"{clear.path}/vm") == before
    assign.to_home(clear, name, VM_ENCRYPTION, force=True)
    # a VM that is decrypted gets another id, and one that is moved by copying, and they stay marked
    assign.to_home(clear, name, DATASTORE_DEFAULT)
    with pytest.raises(UsageError, match="marked"):
        lifecycle.encrypt(clear, name)
    lifecycle.encrypt(clear, name, force=True)
    lifecycle.decrypt(clear, name)
    moved = clear.home(name).standing().record.home_id
    keys.mark_key_holder(moved, holds=False)
    lifecycle.encrypt(clear, name)


def test_a_mark_moves_along(clear, keys, vm, tmp_path):
    name = vm(["plain.vmx"])
    keys.mark_key_holder(clear.home(name).standing().record.home_id, holds=True)
    Volume.init(tmp_path / "other", HomeState.CLEAR, keys)
    with Volume.open(tmp_path / "other", keys) as other:
        move.move(clear, name, other, "there")
        with pytest.raises(UsageError, match="marked"):
            lifecycle.encrypt(other, "there")


def test_a_vm_in_use_is_left_alone(encrypting, clear, tmp_path, fingerprint):
    """Each operation that needs it to be powered off, on an encrypted VM of which a file is open."""
    put(tmp_path / "outside", ["plain.vmx"])
    transfer.import_directory(encrypting, tmp_path / "outside", "vm")
    home = encrypting.home("vm")
    home.enter()
    before = fingerprint(f"{encrypting.path}/vm")
    for way in (
        lambda: lifecycle.encrypt(encrypting, "vm"),
        lambda: lifecycle.decrypt(encrypting, "vm"),
        lambda: lifecycle.encrypt(encrypting, "vm", disk="disk-flat.vmdk"),
        lambda: lifecycle.decrypt(encrypting, "vm", disk="disk-flat.vmdk"),
        lambda: lifecycle.register(encrypting, "vm"),
        lambda: assign.to_home(encrypting, "vm", DATASTORE_DEFAULT),
        lambda: deep.recrypt(encrypting, "vm"),
        lambda: clone.clone(encrypting, "vm", encrypting, "copy"),
        lambda: move.move(encrypting, "vm", encrypting, "there"),
        lambda: transfer.export_directory(encrypting, "vm", tmp_path / "out"),
        lambda: transfer.export_ova(encrypting, "vm", tmp_path / "out.ova"),
    ):
        with pytest.raises(BusyError):
            way()
    home.leave()
    assert fingerprint(f"{encrypting.path}/vm") == before
    assert encrypting.homes() == ["vm"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b'createType="vmfsRDM"', "vmfsRDM"),
        (b'createType="VMFSRDMP"', "VMFSRDMP"),
        (b'createType="vmfsRawDeviceMap"', "vmfsRawDeviceMap"),
        (b'createType="partitionedDevice"', "partitionedDevice"),
        (b'createType="vmfs"\nRW 8 VMFSRAW "x"', "VMFSRAW"),
        (b'createType="vmfs"\n RW  8  vmfsrdm "x"', "VMFSRDM"),
        (b'createType="vmfs"\nRW 8 VMFS "vmfsRDM"', None),
        (b"", None),
    ],
)
def test_descriptors_of_raw_devices(text, kind):
    assert rawdevice.kind(b"# Disk DescriptorFile\nversion=1\n" + text + b"\n") == kind
    assert rawdevice.kind(text) is None  # no descriptor


def test_devices_that_a_vmx_has():
    config = dictionary.parse((GUARDED / "multi-writer.vmx").read_bytes())
    assert devices.drives(config) == [("scsi0:0", "multi-writer.vmdk"), ("scsi1:0", "shared.vmdk")]
    assert devices.shared_by_writers(config) == [("scsi1:0", "shared.vmdk")]
    assert devices.ports_to_files(config) == []
    odd = dictionary.parse(
        b'SCSI0:1.FILENAME = "A.vmdk"\nscsi0:1.Sharing = "Multi-Writer"\nserial9x.fileType = "file"\n'
    )
    assert devices.shared_by_writers(odd) == [("scsi0:1", "A.vmdk")]
    assert devices.ports_to_files(odd) == []
