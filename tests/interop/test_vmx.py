"""Readers of other projects: dissect.hypervisor opens what ioflt exports, qemu-img's disks are understood."""

import io
import subprocess
from pathlib import Path

import pytest
from dissect.hypervisor.descriptor.ovf import OVF
from dissect.hypervisor.descriptor.vmx import VMX

from ioflt.crypto.secret import Secret
from ioflt.format import dictionary
from ioflt.format.ovf import vmx, writer
from ioflt.format.ovf.model import File
from ioflt.format.vmdk import descriptor, sparse
from ioflt.format.vmx import passphrase

pytestmark = pytest.mark.interop

PLAIN = b'.encoding = "UTF-8"\ndisplayName = "web01"\nmemsize = "512"\nscsi0:0.fileName = "web01.vmdk"\n'


def test_dissect_opens_our_export() -> None:
    text = passphrase.export_passphrase(PLAIN, Secret("pässwörd".encode())).decode()
    sealed = VMX.parse(text)
    assert sealed.encrypted
    assert "memsize" not in sealed.attr
    assert sealed.attr["displayname"] == "web01"
    sealed.unlock_with_phrase("pässwörd")
    assert sealed.attr["memsize"] == "512"
    assert sealed.disks() == ["web01.vmdk"]


def test_dissect_refuses_another_passphrase() -> None:
    sealed = VMX.parse(passphrase.export_passphrase(PLAIN, Secret(b"right")).decode())
    with pytest.raises(ValueError, match="No compatible locator"):
        sealed.unlock_with_phrase("wrong")


def test_dissect_finds_the_disks_of_our_envelope() -> None:
    disks = {"web01.vmdk": (File("file1", "web01-disk1.vmdk", 65536), 1 << 30)}
    text = writer.write(vmx.envelope_of(dictionary.parse(PLAIN), disks)).decode()
    assert list(OVF(io.StringIO(text)).disks()) == ["web01-disk1.vmdk"]


@pytest.mark.interop("qemu-img")
@pytest.mark.parametrize(
    "subformat",
    ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"],
)
def test_descriptors_of_qemu_img(tmp_path: Path, subformat: str) -> None:
    disk = tmp_path / "disk.vmdk"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "vmdk", "-o", f"subformat={subformat}", disk, "5G"], check=True
    )
    with disk.open("rb") as file:
        text = sparse.descriptor_of(file.read(sparse.PROBE_SIZE))
    assert text is not None
    parsed = descriptor.parse(text)
    assert (parsed.create_type, parsed.sectors) == (subformat, (5 << 30) // 512)
    assert all((tmp_path / name).exists() for name in parsed.file_names)
