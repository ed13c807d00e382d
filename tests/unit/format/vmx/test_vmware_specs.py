"""The worked bytes of the SPECs are what the code does."""

import re
from pathlib import Path

import ioflt.format
from ioflt.crypto.secret import Secret
from ioflt.format import dictionary
from ioflt.format.keysafe import safe
from ioflt.format.ovf import manifest
from ioflt.format.vmdk import descriptor, sparse
from ioflt.format.vmx import sealed

FORMAT = Path(ioflt.format.__file__ or "").parent


def blocks(room: str) -> list[str]:
    """The code blocks of a room's SPEC."""
    return re.findall(r"```\w*\n(.*?)```", (FORMAT / room / "SPEC.md").read_text(), re.DOTALL)


def hex_bytes(block: str) -> bytes:
    """The bytes before the remarks, which three blanks set off."""
    return bytes.fromhex("".join(line.partition("   ")[0] for line in block.splitlines()))


def test_keysafe() -> None:
    text = blocks("keysafe")[1].strip()
    assert safe.write(safe.parse(text)) == text
    assert safe.parse(text).pairs[0].data == b"\0\1\2"


def test_dictionary() -> None:
    line = dictionary.parse(hex_bytes(blocks("vmx")[0]))
    assert dict(line) == {"a.b": 'x"y'}


def test_sealed_vmx() -> None:
    text = next(block for block in blocks("vmx") if "length=0" in block and "LOCKED" not in block).encode()
    wrapping = Secret(bytes.fromhex("e9459192a1599618f945cccb09027573bae5e2b3477dae7a27946c7057f9bf02"))
    assert sealed.open_(text, wrapping) == b""


def test_vmdk() -> None:
    assert descriptor.parse(blocks("vmdk")[1].encode()).file_names == ("web01-flat.vmdk",)
    header = sparse.parse(hex_bytes(blocks("vmdk")[2]).ljust(512, b"\0"))
    assert (header.capacity, header.descriptor_offset, header.overhead) == (20480, 1, 128)


def test_manifest() -> None:
    assert manifest.write(manifest.parse(blocks("ovf")[1].encode())).decode() == blocks("ovf")[1]
