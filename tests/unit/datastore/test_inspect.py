"""What shows of a file without a key."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioflt.crypto.secret import Secret
from ioflt.datastore import recovery
from ioflt.datastore.inspect import describe
from ioflt.errors import MalformedError
from ioflt.format.luks2 import keyslot
from ioflt.format.luks2.layout import HEADER_SIZE, HEADERS_SIZE, STATE_OFFSET, STATE_SIZE
from ioflt.format.vmx import passphrase as foreign
from tests.unit.datastore.stored import DESCRIPTOR, VMX, Stored, patch, snapshot


@pytest.fixture
def stored(tmp_path: Path, ioflt_home: Path) -> Iterator[Stored]:
    made = Stored(tmp_path)
    yield made
    made.close()


def test_a_container(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    cost = keyslot.Argon2idCost(iterations=4, memory_kib=1024, lanes=2)
    monkeypatch.setattr(keyslot.make_keyslot, "__defaults__", (cost,))
    path = stored.put("a.vmdk", b"x" * 5000)
    fd = os.open(path, os.O_RDWR)
    recovery.add_slot(fd, stored.keys, Secret(b"one"))
    os.close(fd)
    before = snapshot(stored.top)
    found = describe(path)
    assert snapshot(stored.top) == before
    assert (found.kind, found.problem) == ("LUKS2 container of ioflt", None)
    assert (found.cipher, found.key_bits, found.sector_size) == ("aes-xts-plain64", 512, 4096)
    assert (found.provisioning, found.sequence, found.recovery_slots) == ("thin", 2, (0,))
    assert (found.length, found.body_size) == (5000, 8192)
    assert found.keys == (str(stored.home.standing().key),)
    assert found.uuid == stored.header("a.vmdk").uuid
    assert found.file_id is not None
    assert found.file_id >> 62 == 1
    assert found.size == (1 << 20) + 8192
    assert 0 < found.allocated <= found.size


@pytest.mark.parametrize("lost", [0, HEADER_SIZE])
def test_one_header_copy_is_enough(stored: Stored, lost: int) -> None:
    path = stored.put("a.vmdk", b"x")
    patch(path, lost, bytes(HEADER_SIZE))
    assert describe(path).kind == "LUKS2 container of ioflt"


def test_a_lost_header_still_shows_its_state(stored: Stored) -> None:
    path = stored.put("a.vmdk", b"x" * 5000)
    patch(path, 0, bytes(HEADERS_SIZE))
    found = describe(path)
    assert (found.kind, found.problem) == ("LUKS2 container, header unusable", "bad magic")
    assert found.length == 5000


def test_lost_state_blocks_are_told(stored: Stored) -> None:
    path = stored.put("a.vmdk", b"x")
    patch(path, STATE_OFFSET, bytes(STATE_SIZE))
    assert describe(path).problem == "no state block"


def test_a_foreign_container(stored: Stored) -> None:
    path = stored.put("a.vmdk", b"x")
    from ioflt.format.luks2 import header as luks2

    header = stored.header("a.vmdk")._with("tokens", {})
    patch(path, 0, b"".join(luks2.serialize(header)))
    found = describe(path)
    assert (found.kind, found.problem) == ("foreign LUKS2 container", "no ioflt token")
    assert found.uuid == header.uuid


def test_a_sealed_vmx(stored: Stored) -> None:
    path = stored.put("web.vmx", VMX)
    found = describe(path)
    assert (found.kind, found.display_name, found.length) == ("sealed VMX", "web", len(VMX))
    assert found.keys == (str(stored.home.standing().key),)


def test_vmx_of_others(tmp_path: Path) -> None:
    (tmp_path / "a.vmx").write_bytes(foreign.export_passphrase(VMX, Secret(b"one")))
    found = describe(tmp_path / "a.vmx")
    assert found.kind == "VMX encrypted by VMware under a passphrase"
    assert (found.opened_by, found.display_name) == (("passphrase",), "web")
    (tmp_path / "b.vmx").write_bytes(VMX)
    found = describe(tmp_path / "b.vmx")
    assert (found.kind, found.display_name) == ("clear VMX", "web")
    (tmp_path / "c.vmx").write_bytes(b'encryption.keySafe = "x"\nencryption.data = "y"\n')
    found = describe(tmp_path / "c.vmx")
    assert found.kind == "VMX encrypted by VMware"
    assert found.problem


def test_descriptors(tmp_path: Path) -> None:
    (tmp_path / "a.vmdk").write_bytes(DESCRIPTOR)
    found = describe(tmp_path / "a.vmdk")
    assert (found.kind, found.create_type, found.capacity) == ("VMDK descriptor", "monolithicFlat", 20480)
    assert found.named_files == ("disk-flat.vmdk",)
    (tmp_path / "b.vmdk").write_bytes(DESCRIPTOR.replace(b"disk-flat", b"../../etc/shadow"))
    found = describe(tmp_path / "b.vmdk")
    assert found.kind == "VMDK descriptor"
    assert "not confined" in str(found.problem)
    (tmp_path / "c.vmdk").write_bytes(b"KDMV" + bytes(600))
    found = describe(tmp_path / "c.vmdk")
    assert found.kind == "sparse VMDK"
    assert found.problem


def test_records(stored: Stored) -> None:
    found = describe(stored.top / ".ioflt")
    assert (found.kind, found.state) == ("datastore record", "encrypted")
    home = describe(stored.path(".ioflt"))
    assert (home.kind, home.datastore_id, home.operation) == ("home record", found.datastore_id, None)
    stored.path(".ioflt").write_bytes(b"{}")
    assert describe(stored.path(".ioflt")).problem


@pytest.mark.parametrize(
    ("data", "kind"), [(b"", "empty file"), (b"hello", "unknown"), (os.urandom(70000), "unknown")]
)
def test_anything_else(tmp_path: Path, data: bytes, kind: str) -> None:
    (tmp_path / "a").write_bytes(data)
    assert describe(tmp_path / "a").kind == kind


@pytest.mark.parametrize("kind", ["symbolic link", "FIFO", "directory", "device"])
def test_what_is_no_regular_file_is_one_clear_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    if kind == "symbolic link":
        path.symlink_to("/etc/passwd")
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path = Path("/dev/null")
    with pytest.raises(MalformedError, match=f"not a regular file.*{kind}") as caught:
        describe(path)
    assert caught.value.file == str(path)


@pytest.mark.parametrize("name", ["a.vmx", "a.vmdk", ".ioflt"])
def test_a_text_of_2_gib_is_not_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(DESCRIPTOR if name == "a.vmdk" else VMX)
    os.truncate(path, 2 << 30)
    with pytest.raises(MalformedError, match="too large"):
        describe(path)
