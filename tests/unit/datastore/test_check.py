"""Every kind of damage is named, in the file that has it and nowhere else; nothing is changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ioflt.datastore import check, files
from ioflt.errors import NotFoundError
from ioflt.format.luks2.layout import DATA_OFFSET, HEADER_SIZE, HEADERS_SIZE, STATE_OFFSET, STATE_SIZE
from ioflt.format.record.record import Operation
from ioflt.format.vmx import sealed
from ioflt.policy.bundled import DATASTORE_DEFAULT, VM_ENCRYPTION
from ioflt.types import HomeState
from tests.unit.datastore.stored import DESCRIPTOR, VMX, Stored, patch, snapshot

FLAT = b"data" * 5120  # 40 sectors of 512 bytes


def fill(stored: Stored) -> Stored:
    stored.put("web.vmx", VMX)
    stored.put("disk.vmdk", DESCRIPTOR)
    stored.put("disk-flat.vmdk", FLAT)
    stored.put("vmware.log", b"log" * 2000)
    stored.put("root.txt", b"", home=stored.volume.root)
    other = stored.volume.make_home("other", 0o755)
    stored.put("disk.log", b"other", home=other)
    return stored


@pytest.fixture
def stored(tmp_path: Path, ioflt_home: Path) -> Iterator[Stored]:
    made = fill(Stored(tmp_path))
    yield made
    made.close()


@pytest.fixture
def clear(tmp_path: Path, ioflt_home: Path) -> Iterator[Stored]:
    made = fill(Stored(tmp_path, HomeState.CLEAR))
    yield made
    made.close()


def findings(stored: Stored) -> dict[str, str]:
    before = snapshot(stored.top)
    report = check.run(stored.top, stored.keys)
    assert snapshot(stored.top) == before
    found = {entry.path: entry.finding for entry in report.entries if entry.finding is not None}
    assert report.sound is (not found)
    return found


def test_a_sound_datastore(stored: Stored) -> None:
    (stored.top / "empty").mkdir()
    os.symlink("disk.vmdk", stored.path("link.vmdk"))
    assert findings(stored) == {}
    heard: list[int] = []
    report = check.run(stored.top, stored.keys, heard.append)
    states = {entry.path: entry.state for entry in report.entries}
    assert sum(heard) == sum(not path.endswith(".ioflt") for path in states)
    assert states == {
        ".ioflt": "encrypted",
        "empty/.ioflt": "empty",
        "other/.ioflt": "encrypted",
        "other/disk.log": "encrypted",
        "root.txt": "encrypted",
        "web/.ioflt": "encrypted",
        "web/disk-flat.vmdk": "encrypted",
        "web/disk.vmdk": "encrypted",
        "web/link.vmdk": "symbolic link",
        "web/vmware.log": "encrypted",
        "web/web.vmx": "encrypted",
    }


def test_a_clear_datastore_is_sound_and_clear(clear: Stored) -> None:
    report = check.run(clear.top, clear.keys)
    assert report.sound
    assert {entry.state for entry in report.entries} == {"clear"}


def test_more_files_than_fit_one_request(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "BATCH", 2)
    for number in range(5):
        stored.put(f"{number}.log", b"")
    patch(stored.path("3.log"), STATE_OFFSET, bytes(STATE_SIZE))
    assert set(findings(stored)) == {"web/3.log"}


Damage = Callable[[Stored], object]
CASES: dict[str, tuple[str, str, Damage]] = {
    "primary copy": (
        "web/vmware.log",
        "primary header copy damaged (bad checksum)",
        lambda s: patch(s.path("vmware.log"), 5000, b"x"),
    ),
    "secondary copy": (
        "web/vmware.log",
        "secondary header copy damaged (bad magic)",
        lambda s: patch(s.path("vmware.log"), HEADER_SIZE, bytes(HEADER_SIZE)),
    ),
    "both copies": (
        "web/vmware.log",
        "no header",
        lambda s: patch(s.path("vmware.log"), 0, bytes(HEADERS_SIZE)),
    ),
    "state": (
        "web/vmware.log",
        "no valid state block",
        lambda s: patch(s.path("vmware.log"), STATE_OFFSET, bytes(STATE_SIZE)),
    ),
    "body cut": (
        "web/vmware.log",
        "truncated body",
        lambda s: os.truncate(s.path("vmware.log"), DATA_OFFSET + 4096),
    ),
    "body cut to nothing": (
        "web/vmware.log",
        "truncated body",
        lambda s: os.truncate(s.path("vmware.log"), DATA_OFFSET),
    ),
    "file cut": ("web/vmware.log", "no container (empty", lambda s: os.truncate(s.path("vmware.log"), 0)),
    "header zeroed": (
        "web/vmware.log",
        "no container (empty",
        lambda s: (
            os.truncate(s.path("vmware.log"), 0),
            os.truncate(s.path("vmware.log"), DATA_OFFSET + 4096),
        ),
    ),
    "raw copy": (
        "web/vmware2.log",
        "file id used twice (a raw copy of web/vmware.log",
        lambda s: shutil.copy(s.path("vmware.log"), s.path("vmware2.log")),
    ),
    "copy of a VMX": (
        "web/web2.vmx",
        "file id used twice",
        lambda s: shutil.copy(s.path("web.vmx"), s.path("web2.vmx")),
    ),
    "half a rename": (
        "web/log",
        "file id used twice (by web/web.vmx: a rename was interrupted",
        lambda s: os.close(
            files.create(
                s.home,
                s.home.fd,
                "log",
                mode=0o600,
                file_id=sealed.peek(s.path("web.vmx").read_bytes()).file_id,
            )
        ),
    ),
    "of another home": (
        "web/new.log",
        "another home's key",
        lambda s: os.rename(s.path("disk.log", "other"), s.path("new.log")),
    ),
    "planted file": (
        "web/new.log",
        "no container",
        lambda s: s.path("new.log").write_bytes(b"clear text"),
    ),
    "planted VMX": (
        "web/new.vmx",
        "clear, in an encrypted home",
        lambda s: s.path("new.vmx").write_bytes(VMX),
    ),
    "planted VMX of 2 GiB": (
        "web/new.vmx",
        "too large",
        lambda s: (s.path("new.vmx").write_bytes(VMX), os.truncate(s.path("new.vmx"), 2 << 30)),
    ),
    "VMX changed": (
        "web/web.vmx",
        "does not verify",
        lambda s: s.path("web.vmx").write_bytes(
            s.path("web.vmx").read_bytes().replace(f"length={len(VMX)}".encode(), b"length=1")
        ),
    ),
    "FIFO": ("web/fifo", "no regular file", lambda s: os.mkfifo(s.path("fifo"))),
    "draft": (
        "web/.ioflt.d/new-00",
        "left over",
        lambda s: (s.path(".ioflt.d").mkdir(exist_ok=True), s.path(".ioflt.d/new-00").touch()),
    ),
    "record lost": ("web/.ioflt", "no record", lambda s: s.path(".ioflt").unlink()),
    "record changed": (
        "web/.ioflt",
        "bad MAC",
        lambda s: s.path(".ioflt").write_bytes(
            s.path(".ioflt").read_bytes().replace(b'"thick":false', b'"thick":true')
        ),
    ),
    "home planted": (
        "new/.ioflt",
        "no record",
        lambda s: (
            (s.top / "new").mkdir(),
            s.put("a", b"", home=s.volume.root),
            os.rename(s.top / "a", s.top / "new/a"),
        ),
    ),
    "escaping descriptor": (
        "web/bad.vmdk",
        "extent name not confined",
        lambda s: s.put("bad.vmdk", DESCRIPTOR.replace(b"disk-flat.vmdk", b"../../etc/shadow")),
    ),
    "descriptor of itself": (
        "web/bad.vmdk",
        "extent name not confined",
        lambda s: s.put("bad.vmdk", DESCRIPTOR.replace(b"disk-flat.vmdk", b"bad.vmdk")),
    ),
    "missing extent": (
        "web/disk.vmdk",
        "missing extent (disk-flat.vmdk)",
        lambda s: s.path("disk-flat.vmdk").unlink(),
    ),
    "short extent": (
        "web/bad.vmdk",
        "extent too short",
        lambda s: s.put("bad.vmdk", DESCRIPTOR.replace(b"RW 40", b"RW 41")),
    ),
    "missing parent": (
        "web/snap.vmdk",
        "missing parent (gone.vmdk)",
        lambda s: s.put(
            "snap.vmdk",
            DESCRIPTOR.replace(b"parentCID=ffffffff", b'parentCID=0000abcd\nparentFileNameHint="gone.vmdk"'),
        ),
    ),
    "changed parent": (
        "web/snap.vmdk",
        "its parent was changed",
        lambda s: s.put(
            "snap.vmdk",
            DESCRIPTOR.replace(b"parentCID=ffffffff", b'parentCID=00000001\nparentFileNameHint="disk.vmdk"'),
        ),
    ),
    "oversized descriptor": (
        "web/bad.vmdk",
        "too large",
        lambda s: s.put("bad.vmdk", DESCRIPTOR + b"#" * (1 << 20)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_damage_is_named_where_it_is(stored: Stored, case: str) -> None:
    path, reason, damage = CASES[case]
    damage(stored)
    found = findings(stored)
    assert path in found
    assert reason in found[path]
    assert set(found) - {path} <= ({"new/a"} if case == "home planted" else set())


def test_a_snapshot_chain_is_sound(stored: Stored) -> None:
    hint = b'parentCID=0000abcd\nparentFileNameHint="disk.vmdk"'
    stored.put("snap.vmdk", DESCRIPTOR.replace(b"parentCID=ffffffff", hint))
    assert findings(stored) == {}


def test_what_a_guest_writes_to_its_disk_is_not_judged(stored: Stored) -> None:
    stored.path("disk-flat.vmdk").unlink()
    stored.put("disk-flat.vmdk", DESCRIPTOR.replace(b"disk-flat", b"../x").ljust(len(FLAT), b"\0"))
    assert findings(stored) == {}


def test_an_interrupted_operation_and_an_unknown_decrypt(stored: Stored) -> None:
    record = stored.home.standing().record
    assert record is not None
    operation = Operation("encrypt", record.home_id, False, ("vmware.log",), None)
    stored.home.store(replace(record, operation=operation))
    found = findings(stored)
    assert "interrupted" in found["web/.ioflt"]
    stored.home.store(replace(record, operation=replace(operation, kind="decrypt")))
    assert "never started" in findings(stored)["web/.ioflt"]


def test_a_clear_home_among_encrypted_ones_is_named(stored: Stored) -> None:
    (stored.top / "open").mkdir()
    home = stored.volume.home("open")
    home.store(stored.volume.fresh_record("open", DATASTORE_DEFAULT), new=True)
    stored.put("a.txt", b"clear", home=home)
    assert findings(stored) == {"open/.ioflt": "a clear home in a datastore that encrypts"}


def test_an_encrypted_file_in_a_clear_home_is_named(clear: Stored) -> None:
    home = clear.volume.make_home("sealed", 0o755)
    home.store(clear.volume.fresh_record("sealed", VM_ENCRYPTION))
    clear.put("a.log", b"x", home=home)
    shutil.copy(clear.path("a.log", "sealed"), clear.path("a.log"))
    assert set(findings(clear)) == {"web/a.log"}


def test_keys_that_cannot_be_had_are_told_for_their_home_only(stored: Stored, tmp_path: Path) -> None:
    record = stored.home.standing().record
    assert record is not None
    data = stored.path(".ioflt").read_bytes()
    stored.path(".ioflt").write_bytes(data.replace(b'"provider":"local"', b'"provider":"gone"'))
    assert set(findings(stored)) == {"web/.ioflt"}


def test_a_damaged_datastore_record_ends_the_check(stored: Stored) -> None:
    patch(stored.top / ".ioflt", 10, b"X")
    assert set(findings(stored)) == {".ioflt"}


def test_no_datastore(stored: Stored, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        check.run(tmp_path, stored.keys)


def test_directories_nested_too_deeply_are_named(stored: Stored) -> None:
    stored.path("/".join(["web/d"] + ["d"] * 80).removeprefix("web/")).mkdir(parents=True)
    assert "nested too deeply" in " ".join(findings(stored).values())
