"""Single disks of an encrypted home that are clear: which files they are, and what an interruption leaves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ioflt.datastore import (
    check,
    clone,
    diskfiles,
    erase,
    extend,
    headers,
    lifecycle,
    regular,
    resume,
    summary,
)
from ioflt.datastore import recrypt as shallow
from ioflt.datastore.deep import home as deep
from ioflt.datastore.home import Home
from ioflt.datastore.volume import Volume
from ioflt.errors import (
    AuthenticationError,
    BusyError,
    CorruptDataError,
    IofltError,
    MalformedError,
    ReadOnlyError,
    UnsupportedError,
    UsageError,
)
from ioflt.format.record.record import HomeRecord, Operation
from ioflt.format.vmdk import sparse
from ioflt.testing.local_keys import LocalKeys
from ioflt.types import HomeState
from tests.unit.datastore.test_lifecycle import (
    CANARY,
    contents,
    has_canary,
    interrupt,
    looks,
    operations,
    raw,
)

#: What belongs to the disk `a`: a base, two snapshots of it, and a list of changed blocks.
A = ["a-000001-delta.vmdk", "a-000001.vmdk", "a-000002.vmdk", "a-ctk.vmdk", "a-flat.vmdk", "a.vmdk"]
B = ["b-flat.vmdk", "b.vmdk"]


def text_of(*extents: str, parent: str = "", track: str = "", kind: str = "VMFS") -> bytes:
    lines = ["# Disk DescriptorFile", "version=1", "CID=1", 'createType="vmfs"']
    if parent:
        lines += ["parentCID=1", f'parentFileNameHint="{parent}"']
    if track:
        lines.append(f'changeTrackPath="{track}"')
    lines += [f'RW 8 {kind} "{name}"' for name in extents]
    return "\n".join((*lines, "")).encode()


def embedding(text: bytes) -> bytes:
    """A sparse file with that descriptor in it."""
    header = sparse.SparseHeader(1, 3, 128, 128, 1, 20, 512, 21, 128, False, 0)
    return (sparse.pack(header) + text).ljust(64 << 10, b"\0")


def fill(home: Path) -> None:
    files = {
        "vm.vmx": b'displayName = "vm"\n',
        "vm.nvram": CANARY,
        "a.vmdk": text_of("a-flat.vmdk", track="a-ctk.vmdk"),
        "a-flat.vmdk": CANARY * 500,
        "a-ctk.vmdk": b"changed",
        "a-000001.vmdk": text_of("a-000001-delta.vmdk", parent="a.vmdk", kind="VMFSSPARSE"),
        "a-000001-delta.vmdk": CANARY * 20,
        "a-000002.vmdk": embedding(text_of("long ago.vmdk", parent="a.vmdk", kind="SPARSE")),
        "b.vmdk": text_of("b-flat.vmdk"),
        "b-flat.vmdk": CANARY * 300,
        "raw.img": CANARY,
    }
    for number, (name, data) in enumerate(files.items()):
        (home / name).write_bytes(data)
        (home / name).chmod(0o600 | number)
        os.utime(home / name, ns=(1, 1_500_000_000_123_456_000 + number))


@pytest.fixture
def keys(tmp_path: Path, ioflt_home: Path) -> Iterator[LocalKeys]:
    directory = tmp_path / "keys"
    directory.mkdir()
    with LocalKeys(directory) as made:
        yield made


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return tmp_path / "ds"


@pytest.fixture
def volume(top: Path, keys: LocalKeys) -> Iterator[Volume]:
    Volume.init(top, HomeState.CLEAR, keys)
    with Volume.open(top, keys) as made:
        yield made


def make(volume: Volume, name: str) -> Path:
    """An encrypted home."""
    volume.make_home(name, 0o755)
    path = Path(volume.path) / name
    fill(path)
    lifecycle.encrypt(volume, name)
    return path


@pytest.fixture
def home(volume: Volume) -> Path:
    return make(volume, "vm")


@pytest.fixture
def mixed(volume: Volume, home: Path) -> Path:
    """The same, its disk `b` clear."""
    lifecycle.decrypt(volume, "vm", disk="b.vmdk")
    return home


def record_of(volume: Volume, name: str = "vm") -> HomeRecord:
    record = volume.home(name).standing().record
    assert record is not None
    return record


def clear_ones(home: Path) -> list[str]:
    """Files that hold what was put into them as it is."""
    whole = {name: data for name, data in raw(home).items() if not name.startswith(".ioflt")}
    return [
        name
        for name, data in whole.items()
        if not data.startswith(b"LUKS") and b"encryption.data" not in data
    ]


# Which files


def files_of(volume: Volume, path: str) -> list[str]:
    return [entry.path for entry in diskfiles.of_disk(volume.home("vm"), path, lambda _: True)]


@pytest.mark.parametrize("named", A)
def test_a_chain_belongs_together_whichever_of_its_files_is_named(
    volume: Volume, home: Path, named: str
) -> None:
    assert files_of(volume, named) == A


def test_what_is_no_disk(volume: Volume, home: Path) -> None:
    for name in ("vm.nvram", "vm.vmx", "raw.img"):
        assert files_of(volume, name) == []
        with pytest.raises(UsageError, match=f"vm: its file {name} is no disk"):
            lifecycle.decrypt(volume, "vm", disk=name)
    for name in ("nothing.vmdk", "../vm/a.vmdk", "/etc/passwd", "", "."):
        with pytest.raises(UsageError, match="vm: there is no file"):
            lifecycle.decrypt(volume, "vm", disk=name)
    assert clear_ones(home) == []


def test_a_disk_in_a_directory(volume: Volume, home: Path) -> None:
    lifecycle.decrypt(volume, "vm")
    (home / "sub").mkdir()
    for name in B:
        os.rename(home / name, home / "sub" / name)
    lifecycle.encrypt(volume, "vm")
    lifecycle.decrypt(volume, "vm", disk="sub/b.vmdk")
    assert record_of(volume).clear_files == ("sub/b-flat.vmdk", "sub/b.vmdk")
    assert clear_ones(home) == ["sub/b-flat.vmdk", "sub/b.vmdk"]


def put(volume: Volume, home: Path, name: str, data: bytes) -> None:
    """A file more in the encrypted home."""
    lifecycle.decrypt(volume, "vm")
    (home / name).write_bytes(data)
    lifecycle.encrypt(volume, "vm")


def test_a_guest_makes_no_descriptor(volume: Volume, home: Path) -> None:
    """What it writes to the start of its disk, text or sparse header, connects nothing with that."""
    lies = text_of("a-flat.vmdk", parent="a.vmdk")
    for lie in (lies.ljust(2 << 20, b"\0"), embedding(lies)):
        put(volume, home, "b-flat.vmdk", lie)
        assert files_of(volume, "b.vmdk") == B
        assert files_of(volume, "a.vmdk") == A


def test_a_linked_clone_is_refused(volume: Volume, home: Path) -> None:
    put(volume, home, "l.vmdk", text_of("l-delta.vmdk", parent="../base/base.vmdk", kind="VMFSSPARSE"))
    with pytest.raises(MalformedError, match="parent name not confined"):
        lifecycle.decrypt(volume, "vm", disk="l.vmdk")
    assert files_of(volume, "b.vmdk") == B


def test_a_descriptor_does_not_take_the_vmx_along(volume: Volume, home: Path) -> None:
    put(volume, home, "l.vmdk", text_of("vm.vmx"))
    with pytest.raises(UnsupportedError, match="names a VMX"):
        lifecycle.decrypt(volume, "vm", disk="l.vmdk")
    assert clear_ones(home) == []


def test_what_is_no_regular_file(volume: Volume, home: Path) -> None:
    put(volume, home, "l.vmdk", text_of("link.vmdk"))
    (home / "link.vmdk").symlink_to("b-flat.vmdk")
    with pytest.raises(UnsupportedError, match=r"link.vmdk: not a regular file"):
        lifecycle.decrypt(volume, "vm", disk="l.vmdk")


def test_a_file_with_other_names_is_refused(volume: Volume, home: Path) -> None:
    os.link(home / "b-flat.vmdk", home / "again")
    with pytest.raises(UsageError, match=r"b-flat.vmdk: has other names \(hard links\)"):
        lifecycle.decrypt(volume, "vm", disk="b.vmdk")
    assert clear_ones(home) == []


def test_only_encrypted_descriptors_say_what_is_decrypted(volume: Volume, mixed: Path) -> None:
    """Whoever writes the datastore writes clear ones: none drags another disk along."""
    lie = text_of("b-flat.vmdk", "raw.img", parent="a.vmdk").replace(
        b'"raw.img"', b'"raw.img"\nRW 8 VMFS "vm.nvram"'
    )
    (mixed / "b.vmdk").write_bytes(lie)
    lifecycle.decrypt(volume, "vm", disk="a.vmdk")
    assert sorted(clear_ones(mixed)) == sorted(A + B)
    assert record_of(volume).clear_files == tuple(sorted(A + B))


# There and back


def test_there_and_back(volume: Volume, home: Path) -> None:
    before, looked, generation = contents(volume), looks(home), record_of(volume).generation
    told: list[int] = []
    assert sorted(lifecycle.decrypt(volume, "vm", disk="a.vmdk", progress=told.append)) == A
    assert sum(told) == sum(len(before[name]) for name in A)
    record = record_of(volume)
    assert record.clear_files == tuple(A)
    assert (record.state, record.operation) == (HomeState.ENCRYPTED, None)
    assert record.generation > generation
    assert clear_ones(home) == A
    assert {name: raw(home)[name] for name in A} == {name: before[name] for name in A}
    assert contents(volume) == before
    assert looks(home) == looked
    assert {file.path for file in summary.home(volume, "vm").files if file.stored_as == "clear"} == set(A)
    assert operations() == []
    assert sorted(lifecycle.encrypt(volume, "vm", disk="a-000001.vmdk")) == A
    assert record_of(volume).clear_files == ()
    assert clear_ones(home) == has_canary(home) == []
    assert contents(volume) == before
    assert looks(home) == looked


def test_thick(volume: Volume, home: Path) -> None:
    lifecycle.decrypt(volume, "vm", disk="b.vmdk")
    with (home / "b-flat.vmdk").open("ab") as file:
        file.truncate(1 << 20)
    lifecycle.encrypt(volume, "vm", disk="b.vmdk", thick=True)
    assert (home / "b-flat.vmdk").stat().st_blocks * 512 > 1 << 20
    assert record_of(volume).thick is False


def test_done_already(volume: Volume, mixed: Path) -> None:
    before = raw(mixed)
    for named in B:
        with pytest.raises(UsageError, match=f"vm: its disk {named} is clear already"):
            lifecycle.decrypt(volume, "vm", disk=named)
    with pytest.raises(UsageError, match=r"vm: its file a\.vmdk is encrypted already"):
        lifecycle.encrypt(volume, "vm", disk="a.vmdk")
    with pytest.raises(UsageError, match="vm: is encrypted already"):
        lifecycle.encrypt(volume, "vm")
    assert raw(mixed) == before


def test_no_encrypted_disk_in_a_clear_home(volume: Volume, home: Path) -> None:
    lifecycle.decrypt(volume, "vm")
    before = raw(home)
    with pytest.raises(UsageError, match="vm: is not encrypted: an encrypted disk is not allowed in it"):
        lifecycle.encrypt(volume, "vm", disk="a.vmdk")
    with pytest.raises(UsageError, match="vm: is clear already"):
        lifecycle.decrypt(volume, "vm", disk="a.vmdk")
    assert raw(home) == before


def test_in_use(volume: Volume, home: Path) -> None:
    volume.home("vm").enter()
    for convert in (lifecycle.decrypt, lifecycle.encrypt):
        with pytest.raises(BusyError):
            convert(volume, "vm", disk="a.vmdk")
    volume.home("vm").leave()


def test_a_clear_file_that_lost_its_descriptor_is_encrypted(volume: Volume, mixed: Path) -> None:
    (mixed / "b.vmdk").unlink()
    lifecycle.encrypt(volume, "vm", disk="b-flat.vmdk")
    assert clear_ones(mixed) == []
    assert contents(volume)["b-flat.vmdk"] == CANARY * 300


def test_a_child_that_was_made_since(volume: Volume, mixed: Path) -> None:
    """A snapshot of a clear disk is encrypted, as all new files are; then either way goes on."""
    child = text_of("b-1-delta.vmdk", parent="b.vmdk", kind="VMFSSPARSE")
    for name, data in (("b-1.vmdk", child), ("b-1-delta.vmdk", CANARY)):
        write(volume.home("vm"), name, data)
    assert clear_ones(mixed) == B
    before = contents(volume)
    lifecycle.decrypt(volume, "vm", disk="b-1.vmdk")
    assert clear_ones(mixed) == ["b-1-delta.vmdk", "b-1.vmdk", *B]
    lifecycle.encrypt(volume, "vm", disk="b.vmdk")
    assert clear_ones(mixed) == []
    assert contents(volume) == before


def write(home: Home, name: str, data: bytes) -> None:
    """A new file, made as a mount makes it."""
    from ioflt.datastore import files, namespace

    namespace.release(home, home.fd, name)
    fd = files.create(home, home.fd, name, mode=0o600)
    treatment = home.treatment(name, fd)
    with_place = lambda: (home.fd, home.fd, name)  # noqa: E731
    file = files.open_file(home, fd, treatment, writable=True, place=with_place)
    file.write(0, data)
    file.sync(data_only=False)
    file.close()


# Whole homes


def test_decrypting_all_of_a_mixed_home(volume: Volume, mixed: Path) -> None:
    before, looked = contents(volume), looks(mixed)
    lifecycle.decrypt(volume, "vm")
    record = record_of(volume)
    assert (record.state, record.clear_files) == (HomeState.CLEAR, ())
    assert {name: data for name, data in raw(mixed).items() if name != ".ioflt"} == before
    assert looks(mixed) == looked
    lifecycle.encrypt(volume, "vm")
    assert clear_ones(mixed) == []
    assert contents(volume) == before


def test_an_interrupted_decryption_of_all_is_taken_back(volume: Volume, mixed: Path) -> None:
    before = contents(volume)
    assert interrupt(lambda: lifecycle.decrypt(volume, "vm"), 30)
    assert contents(volume) == before
    with pytest.raises(UsageError, match="its decryption was interrupted, and comes first"):
        lifecycle.encrypt(volume, "vm", disk="b.vmdk")
    with pytest.raises(UsageError, match="its decryption was interrupted, and comes first"):
        lifecycle.decrypt(volume, "vm", disk="b.vmdk")
    lifecycle.encrypt(volume, "vm")
    assert clear_ones(mixed) == B
    assert contents(volume) == before


def test_a_shallow_recrypt_passes_clear_files_over(volume: Volume, mixed: Path) -> None:
    before, stored = contents(volume), raw(mixed)
    shallow.recrypt(volume, "vm")
    assert contents(volume) == before
    assert {name: raw(mixed)[name] for name in B} == {name: stored[name] for name in B}
    assert record_of(volume).clear_files == tuple(B)


@pytest.mark.parametrize("mode", ["copy", "journal"])
def test_a_deep_recrypt_passes_clear_files_over(volume: Volume, mixed: Path, mode: str) -> None:
    before, stored = contents(volume), raw(mixed)
    deep.recrypt(volume, "vm", mode=mode)  # type: ignore[arg-type]
    assert contents(volume) == before
    assert {name: raw(mixed)[name] for name in B} == {name: stored[name] for name in B}
    assert raw(mixed)["a-flat.vmdk"] != stored["a-flat.vmdk"]
    assert record_of(volume).clear_files == tuple(B)


@pytest.mark.parametrize("same_key", [False, True])
def test_a_clone_keeps_what_is_clear(volume: Volume, mixed: Path, top: Path, same_key: bool) -> None:
    with (mixed / "b-flat.vmdk").open("r+b") as file:  # a hole at its start: nothing of a header stays there
        file.truncate(0)
        file.truncate(2 << 20)
        file.seek(3 << 19)
        file.write(CANARY)
    before = contents(volume)
    clone.clone(volume, "vm", volume, "other", same_key=same_key)
    assert contents(volume, "other") == before
    assert clear_ones(top / "other") == B
    assert (top / "other" / "b-flat.vmdk").read_bytes() == before["b-flat.vmdk"]
    assert record_of(volume, "other").clear_files == tuple(B)


def test_check_finds_nothing_wrong(volume: Volume, mixed: Path, top: Path, keys: LocalKeys) -> None:
    report = check.run(top, keys)
    assert report.sound
    assert [entry.path for entry in report.entries if entry.state == "clear"] == [
        ".ioflt", *(f"vm/{name}" for name in B)
    ]  # fmt: skip


def test_check_finds_an_encrypted_file_that_is_listed(
    volume: Volume, mixed: Path, top: Path, keys: LocalKeys
) -> None:
    shutil.copyfile(mixed / "a-flat.vmdk", mixed / "b-flat.vmdk")
    found = {entry.path: entry.finding for entry in check.run(top, keys).entries if entry.finding}
    assert found == {"vm/b-flat.vmdk": "an encrypted file, kept as it is in a clear place"}
    with pytest.raises(AuthenticationError, match="replayed record"):  # nothing is encrypted twice
        lifecycle.encrypt(volume, "vm", disk="b.vmdk")


def test_a_clear_disk_is_extended(volume: Volume, mixed: Path) -> None:
    lifecycle.decrypt(volume, "vm", disk="a.vmdk")
    extend.extend_disk(volume, "vm", "b.vmdk", 1 << 20)
    assert (mixed / "b-flat.vmdk").stat().st_size == 1 << 20
    assert b"RW 2048 VMFS" in (mixed / "b.vmdk").read_bytes()
    assert record_of(volume).clear_files == tuple(sorted(A + B))


def test_an_erase_overwrites_what_is_clear(volume: Volume, mixed: Path, top: Path) -> None:
    with (mixed / "b-flat.vmdk").open("rb") as held:
        receipt = erase.erase(volume, "vm")
        assert CANARY not in held.read()
    stored = {file.path: file.stored for file in receipt.files}
    assert [path for path, how in stored.items() if how == "clear"] == B
    assert not (top / "vm").exists()


def test_a_header_backup_does_not_come_back_over_a_clear_disk(volume: Volume, home: Path) -> None:
    saved = headers.backup(volume, "vm")
    lifecycle.decrypt(volume, "vm", disk="b.vmdk")
    before = contents(volume)
    assert sorted(headers.restore(volume, "vm", saved).missing) == B
    assert contents(volume) == before
    assert [one.path for one in headers.backup(volume, "vm").headers if one.path in B] == []


# Interruptions


def conversions() -> dict[str, Callable[[Volume, str], object]]:
    return {
        "decrypt": lambda volume, name: lifecycle.decrypt(volume, name, disk="b.vmdk"),
        "encrypt": lambda volume, name: lifecycle.encrypt(volume, name, disk="b.vmdk"),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "back"), [("decrypt", False), ("decrypt", True), ("encrypt", False)])
def test_interrupted_anywhere(volume: Volume, top: Path, kind: str, back: bool) -> None:
    """Cut at each call in turn; what can be read is the same; then resumed, or taken back."""
    convert = conversions()
    at, reached = 0, True
    while reached:
        at += 1
        name = f"vm{at}"
        path = make(volume, name)
        if kind == "encrypt":
            lifecycle.decrypt(volume, name, disk="b.vmdk")
        before, looked = contents(volume, name), looks(path)
        reached = interrupt(lambda name=name: convert[kind](volume, name), at)
        assert contents(volume, name) == before
        begun = isinstance(record_of(volume, name).operation, Operation)
        resumed = [(name, "encryption")] if begun and kind == "encrypt" else []
        assert resume.interrupted(volume) == resumed
        if begun and kind == "decrypt":
            with pytest.raises(ReadOnlyError, match=r"the decryption of its disk b.vmdk was interrupted"):
                volume.home(name).check_writable()
            with pytest.raises(UsageError, match=r"of its disk b.vmdk was interrupted, and comes first"):
                lifecycle.decrypt(volume, name)
            with pytest.raises(UsageError, match=r"of its disk b.vmdk was interrupted, and comes first"):
                lifecycle.decrypt(volume, name, disk="a.vmdk")
            convert["encrypt" if back else "decrypt"](volume, name)
            assert clear_ones(path) == ([] if back else B)
        assert record_of(volume, name).operation is None
        assert clear_ones(path) == list(record_of(volume, name).clear_files)
        assert clear_ones(path) in ([], B)
        assert contents(volume, name) == before
        assert looks(path) == looked
        assert not begun or os.listdir(path / ".ioflt.d") == []
        volume.forget(volume.home(name))
        shutil.rmtree(path)
    assert at > 25


@pytest.mark.slow
def test_an_interrupted_encryption_is_taken_back(volume: Volume, top: Path) -> None:
    at, reached, turned = 0, True, 0
    while reached:
        at += 1
        name = f"vm{at}"
        path = make(volume, name)
        lifecycle.decrypt(volume, name, disk="b.vmdk")
        before, looked = contents(volume, name), looks(path)
        reached = interrupt(lambda name=name: lifecycle.encrypt(volume, name, disk="b.vmdk"), at)
        if isinstance(record_of(volume, name).operation, Operation):
            turned += 1
            lifecycle.decrypt(volume, name, disk="b-flat.vmdk")
            assert clear_ones(path) == list(record_of(volume, name).clear_files) == B
        assert record_of(volume, name).operation is None
        assert contents(volume, name) == before
        assert looks(path) == looked
        volume.forget(volume.home(name))
        shutil.rmtree(path)
    assert turned > 15
    assert operations() == []


def test_another_host_does_not_resume_a_decryption(volume: Volume, home: Path) -> None:
    assert interrupt(lambda: lifecycle.decrypt(volume, "vm", disk="b.vmdk"), 24)
    operation = record_of(volume).operation
    assert isinstance(operation, Operation)
    volume.end_authorisation(operation.id)
    with pytest.raises(AuthenticationError, match="unknown operation"):
        lifecycle.decrypt(volume, "vm", disk="b.vmdk")
    assert has_canary(home) == []


def test_a_file_that_went_meanwhile_is_not_listed(volume: Volume, home: Path) -> None:
    assert interrupt(lambda: lifecycle.decrypt(volume, "vm", disk="b.vmdk"), 24)
    (home / "b-flat.vmdk").unlink()
    lifecycle.decrypt(volume, "vm", disk="b.vmdk")
    assert record_of(volume).clear_files == ("b.vmdk",)


def test_a_rolled_back_list_is_refused(volume: Volume, home: Path) -> None:
    old = (home / ".ioflt").read_bytes()
    lifecycle.decrypt(volume, "vm", disk="b.vmdk")
    (home / ".ioflt").write_bytes(old)
    with pytest.raises(ReadOnlyError, match="rolled back"):
        volume.home("vm").check_writable()


def test_what_is_not_listed_must_be_a_container(volume: Volume, mixed: Path) -> None:
    home = volume.home("vm")
    home.store(replace(record_of(volume), clear_files=("b.vmdk",)))
    with pytest.raises(CorruptDataError):
        contents(volume)
    with pytest.raises(IofltError):
        lifecycle.decrypt(volume, "vm")
    assert len(regular.regular_files(home)) == 11
