"""Points of a VM: made, looked at, verified, and restored to what the VM was."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ioflt.backup import images, increments, listing, repository, restore, run, sealing, verify
from ioflt.backup.disk import Area
from ioflt.backup.restore import Restored
from ioflt.backup.run import Wanted
from ioflt.backup.sources import StoredFile
from ioflt.datastore import cbt, check
from ioflt.datastore.disks import Disk as HomeDisk
from ioflt.datastore.home import Home
from ioflt.datastore.tree import HomeSide
from ioflt.datastore.volume import Volume
from ioflt.errors import (
    AuthenticationError,
    BusyError,
    CorruptDataError,
    ExistsError,
    KeyUnavailableError,
    MalformedError,
    NotFoundError,
    UsageError,
)
from ioflt.format.qcow2 import header as head
from ioflt.format.vmdk import descriptor
from ioflt.types import HomeState
from tests.unit.backup import disks
from tests.unit.backup.points import DESCRIPTOR, DISK, K64, LENGTH, Site, contents
from tests.unit.datastore.stored import patch

KINDS = ["encrypted", "clear", "ciphertext"]


@pytest.fixture
def site(ioflt_home: Path, tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


@pytest.fixture
def clear(ioflt_home: Path, tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, HomeState.CLEAR)
    yield made
    made.close()


@pytest.fixture
def other(site: Site, tmp_path: Path) -> Iterator[Volume]:
    """Another datastore."""
    Volume.init(tmp_path / "other", HomeState.ENCRYPTED, site.keys)
    with Volume.open(tmp_path / "other", site.keys) as volume:
        yield volume


def findings(
    site: Site, kind: str, key: str | None = None, point: str | None = None, vm: str | None = "web"
) -> list[tuple[str, str, str]]:
    with site.destination(kind) as found:
        done = verify.verify(found, vm, point, key=key or site.attester.public_key())
    return [(each.point, each.file, each.finding) for each in done.findings]


def restored(
    site: Site,
    kind: str,
    volume: Volume,
    name: str,
    at: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Restored:
    with site.destination(kind) as found, found.shelf("web") as shelf:
        manifest = shelf.document(listing.at(shelf, at)).manifest
        return restore.restore(shelf, manifest, volume, name, progress=progress)


def same(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    """All files are as they were; a descriptor names the same disk."""
    old, new = dict(before), dict(after)
    parsed = [descriptor.parse(each.pop("web.vmdk"), "web.vmdk") for each in (old, new)]
    assert old == new
    assert parsed[0].extents == parsed[1].extents
    assert {**parsed[0].ddb, "thinProvisioned": "1"} == parsed[1].ddb


@pytest.mark.parametrize("kind", KINDS)
def test_points_are_whole_and_listed(site: Site, kind: str) -> None:
    full = site.back_up(kind)
    site.write("web-flat.vmdk", 5 * K64, b"changed")
    increment = site.back_up(kind, incremental=True)
    assert full.full
    assert not increment.full
    assert increment.parents == {full.point}
    assert findings(site, kind) == []
    with site.destination(kind) as found:
        points = listing.points(found)
    assert [(each.point, each.full, each.problem) for each in points] == [
        (full.point, True, None),
        (increment.point, False, None),
    ]
    assert (full.vm, full.state, full.consistency, full.kind) == ("web", "encrypted", "powered off", kind)
    assert [key.key_id for key in full.keys] == [key.key_id for key in site.home.standing().keys]


@pytest.mark.parametrize("kind", KINDS[:2])
def test_each_point_is_restored_as_it_was(site: Site, other: Volume, kind: str) -> None:
    states = []
    for number in range(3):
        site.write("web-flat.vmdk", (5 + number) * K64 + 7, bytes([number + 1]) * 100)
        if number == 1:
            site.write("web-flat.vmdk", 0, bytes(2 * K64))  # zeros hide what the point before has
        states.append((site.back_up(kind, incremental=number > 0), contents(site.home)))
    for number, (manifest, before) in enumerate(states):
        made = restored(site, kind, other, f"back{number}", manifest.point)
        same(before, contents(other.home(f"back{number}")))
        assert made.kept_key
        assert made.state == "encrypted"
    assert [entry.finding for entry in check.run(other.path, site.keys).entries if entry.finding] == []


def test_a_chain_ends(site: Site, other: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_CHAIN", 2)
    first, second, third = (site.back_up("clear", incremental=True) for _ in range(3))
    assert (first.full, second.full, third.full) == (True, False, True)
    assert any("2 points build on each other" in note for note in third.notes)
    monkeypatch.setattr(images, "MAX_CHAIN", 1)
    with pytest.raises(MalformedError, match="chain too long"):
        restored(site, "clear", other, "back", second.point)


def test_an_increment_has_what_changed(site: Site) -> None:
    full = site.back_up("encrypted")
    site.write("web-flat.vmdk", 5 * K64, b"changed")
    increment = site.back_up("encrypted", incremental=True)
    sizes = {disk.path: disk.stored for disk in increment.disks}
    assert sizes["web.vmdk"] < min(7 * K64, next(d.stored for d in full.disks if d.path == "web.vmdk"))
    assert any("comparing" in note for note in increment.notes)


@pytest.mark.allow_log("changed blocks are tracked anew")
def test_an_increment_of_a_tracked_disk_asks_what_changed(site: Site, other: Volume) -> None:
    """Nothing is compared then; and where that is not known any more, it is full, and says so."""
    cbt.enable(site.home, "web.vmdk")
    cbt.enable(site.home, "data.raw")
    states = [(site.back_up("clear"), contents(site.home))]
    with site.tracked("web-flat.vmdk") as file:
        file.write(5 * K64 + 1, b"changed")
        file.write(0, bytes(K64))
    states.append((site.back_up("clear", incremental=True), contents(site.home)))
    increment = states[-1][0]
    assert increment.notes == ()
    web = next(disk for disk in increment.disks if disk.path == "web.vmdk")
    assert (web.parent, web.change_id is None) == (states[0][0].point, False)
    assert all(disk.stored < 9 * K64 for disk in increment.disks)
    site.write("web-flat.vmdk", 7 * K64, b"by a writer who tracks nothing")
    states.append((site.back_up("clear", incremental=True), contents(site.home)))
    parents = {disk.path: disk.parent for disk in states[-1][0].disks}
    assert parents == {"web.vmdk": None, "data.raw": increment.point}
    assert states[-1][0].notes == (
        "web.vmdk: full, as what changed since the backup before is not known any more",
    )
    assert findings(site, "clear") == []
    for number, (manifest, before) in enumerate(states):
        restored(site, "clear", other, f"back{number}", manifest.point)
        same(before, contents(other.home(f"back{number}")))


def seen(home: Home, name: str) -> bytes:
    """What a guest has on that disk."""
    with HomeDisk(HomeSide(home), home.fd, name) as disk:
        return bytes(disk.read(0, disk.capacity))


def test_a_tracked_disk_whose_file_becomes_an_image(site: Site, other: Volume) -> None:
    """No increment takes changes of the file for those of the disk."""
    site.put("web.qcow2", random.Random(3).randbytes(4 * K64))
    cbt.enable(site.home, "web.qcow2")
    states = [(site.back_up("clear"), seen(site.home, "web.qcow2"))]
    image = disks.qcow2(16 * K64, (0, b"a" * K64), (12 * K64, b"b" * K64))
    for written in (b"c", b"d"):
        with site.tracked("web.qcow2") as file:
            file.write(0, image.replace(b"bb", written + b"b", 1))
        states.append((site.back_up("clear", incremental=True), seen(site.home, "web.qcow2")))
    for manifest, before in states:
        restored(site, "clear", other, manifest.point, manifest.point)
        assert seen(other.home(manifest.point), "web.qcow2") == before


def test_a_tracked_disk_whose_descriptor_shows_more_of_its_file(site: Site, other: Volume) -> None:
    """Nobody wrote that after the backup before, and that has it not."""
    site.write("web-flat.vmdk", LENGTH - K64, b"behind the end")
    shorter = b"RW %d " % (LENGTH // 512 - 300)
    site.write("web.vmdk", 0, DESCRIPTOR.replace(b"RW %d " % (LENGTH // 512), shorter))
    cbt.enable(site.home, "web.vmdk")
    site.back_up("clear")
    site.write("web.vmdk", 0, DESCRIPTOR)
    with site.tracked("web-flat.vmdk") as file:
        file.write(0, b"changed")
    increment = site.back_up("clear", incremental=True)
    assert all(disk.parent is not None for disk in increment.disks)
    restored(site, "clear", other, "back")
    assert seen(other.home("back"), "web.vmdk") == seen(site.home, "web.vmdk")


@pytest.mark.parametrize("taken", ["file", "directory", "link"])
def test_the_name_of_an_extent_that_is_taken(site: Site, other: Volume, taken: str) -> None:
    """A disk comes back with an extent of another name than it had, where something else has that."""
    site.put("a.vmdk", disks.text('RW 8 VMFS "other"'))
    site.put("other", random.Random(4).randbytes(4096))
    path = site.top / "web" / "a-flat.vmdk"
    if taken == "file":
        site.put("a-flat.vmdk", b"something else")
    elif taken == "link":
        path.symlink_to("web.nvram")
    else:
        path.mkdir()
    before = contents(site.home)
    site.back_up("clear")
    restored(site, "clear", other, "back")
    back = other.home("back")
    assert seen(back, "a.vmdk") == seen(site.home, "a.vmdk")
    after = contents(back)
    assert after["a-flat.vmdk"] == before["a-flat.vmdk"]
    assert len(after) == len(before)


def test_the_disk_with_the_longest_path(site: Site, other: Volume) -> None:
    name = "/".join(["n" * 251 + ".raw"] * 3)
    made = site.put("disk", random.Random(4).randbytes(4096))
    (site.top / "web" / name).parent.mkdir(parents=True)
    made.rename(site.top / "web" / name)
    site.back_up("encrypted")
    assert site.back_up("encrypted", incremental=True).disks[1].path == name
    assert findings(site, "encrypted") == []
    restored(site, "encrypted", other, "back")
    assert seen(other.home("back"), name) == seen(site.home, name)


def test_no_increment_builds_on_what_cannot_be_read(site: Site) -> None:
    """A table of the image before was changed: what the disk has is in a full one."""
    full = site.back_up("clear")
    image = site.path_of_all / "clear" / "web" / full.point / "web.vmdk.qcow2"
    data = image.read_bytes()
    l2 = int.from_bytes(data[K64 : K64 + 8], "big") & head.OFFSET_MASK
    patch(image, l2, (1 << 40 | head.COPIED).to_bytes(8, "big"))
    second = site.back_up("clear", incremental=True)
    assert {disk.path: disk.parent for disk in second.disks} == {"data.raw": full.point, "web.vmdk": None}
    assert any("web.vmdk: full, as what is before it cannot be read" in note for note in second.notes)
    assert [point for point, _, _ in findings(site, "clear")] == [full.point]


def test_what_changed_side_by_side_is_one_area(tmp_path: Path) -> None:
    disks = {"now": b"a" * (5 * K64 + 512), "then": bytes(2 * K64) + b"a" * K64}
    for name, data in disks.items():
        (tmp_path / name).write_bytes(data)
    now, then = (StoredFile(os.open(tmp_path / name, os.O_RDONLY | os.O_CLOEXEC)) for name in disks)
    with now, then:
        assert list(increments.changed(now, then)) == [Area(0, 2 * K64), Area(3 * K64, 2 * K64 + 512)]


def test_ciphertext_holds_the_stored_files(site: Site) -> None:
    """An increment has the first 1 MiB of each container; none is needed to have plaintext."""
    site.back_up("ciphertext")
    made = site.back_up("ciphertext", incremental=True)
    assert {file.path for file in made.files} == {".ioflt", "web.vmx"}
    stored = b"".join(
        path.read_bytes() for path in (site.path_of_all / "ciphertext").rglob("*") if path.is_file()
    )
    assert DISK[:64] not in stored
    assert b"NVRAMNVRAM" not in stored
    for disk in made.disks:
        image = site.path_of_all / "ciphertext" / "web" / made.point / disk.image
        container = (site.top / "web" / disk.path).read_bytes()
        assert container[: 32 << 10] in image.read_bytes()


def test_a_clear_vm_has_no_ciphertext(clear: Site) -> None:
    with pytest.raises(UsageError, match="no ciphertext"):
        clear.back_up("ciphertext")
    assert not (clear.path_of_all / "ciphertext" / "web").exists()


def test_a_clear_vm_comes_back_as_the_datastore_says(clear: Site) -> None:
    clear.back_up("encrypted")
    before = contents(clear.home)
    made = restored(clear, "encrypted", clear.volume, "copy")
    assert (made.state, made.keys) == ("clear", [])
    same(before, contents(clear.volume.home("copy")))


def test_nothing_is_overwritten(site: Site) -> None:
    site.back_up("encrypted")
    with pytest.raises(ExistsError):
        restored(site, "encrypted", site.volume, "web")


def test_points_are_kept_apart_from_vms(site: Site, tmp_path: Path) -> None:
    with repository.of_volume(site.volume) as own, pytest.raises(UsageError, match="own datastore"):
        run.run(site.volume, "web", own, Wanted(), site)
    with site.destination("encrypted") as found:
        found.make_shelf("web")
    (tmp_path / "encrypted" / "web" / "web.vmx").touch()
    with pytest.raises(UsageError, match=r"something else than backups: web\.vmx"):
        site.back_up("encrypted")


def test_a_vm_in_use_is_not_backed_up(site: Site) -> None:
    site.home.enter()
    with pytest.raises(BusyError, match="in use"):
        site.back_up("encrypted")
    site.home.leave()
    with site.destination("encrypted") as found:
        assert found.vms() == []


class Stop(Exception):
    """What interrupts."""


def after(calls: int) -> Callable[[int], None]:
    """Progress that ends it at the call of that number."""
    left = [calls]

    def advance(_count: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Stop

    return advance


def test_keys_that_change_meanwhile(site: Site) -> None:
    """A backup of containers has to have the record that goes with their headers."""
    record = site.home.standing().record
    assert record is not None
    with pytest.raises(BusyError, match="keys were changed"):
        site.back_up("ciphertext", progress=lambda _: site.home.store(record) and None)
    with site.destination("ciphertext") as found:
        assert found.vms() == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_interrupted_leaves_no_point(site: Site, kind: str) -> None:
    for calls in (0, 2, 5):
        with pytest.raises(Stop):
            site.back_up(kind, progress=after(calls))
        with site.destination(kind) as found:
            assert found.vms() == []
    first = site.back_up(kind)
    top = site.path_of_all / kind / "web"
    os.rename(top / first.point, top / f".part-{first.point}")  # as a kill leaves it
    second = site.back_up(kind)
    assert [name for name in os.listdir(top) if not name.startswith(".ioflt")] == [second.point]
    os.rename(top / second.point, top / f".old-{second.point}")  # killed while another took its place
    third = site.back_up(kind, incremental=True)
    assert third.parents == {second.point}
    assert findings(site, kind) == []


def test_tags_and_thick_files_come_back(ioflt_home: Path, tmp_path: Path) -> None:
    site = Site(tmp_path, integrity=True)
    try:
        first = site.back_up("encrypted")
        assert first.integrity
        restored(site, "encrypted", site.volume, "back")
        home = site.volume.home("back")
        assert home.standing().integrity
        same(contents(site.home), contents(home))
        site.write("web-flat.vmdk", 5 * K64, b"more")
        site.back_up("encrypted", incremental=True)
        assert findings(site, "encrypted") == []
    finally:
        site.close()


@pytest.mark.allow_log("lock")
def test_keys_that_go_on_the_way_leave_no_point(site: Site) -> None:
    first = site.back_up("encrypted")

    def lock(_count: int) -> None:
        site.keys.lock("force")

    with pytest.raises(KeyUnavailableError):
        site.back_up("encrypted", incremental=True, progress=lock)
    site.keys.unlock()
    second = site.back_up("encrypted", incremental=True)
    left = sorted(name for name in os.listdir(site.path_of_all / "encrypted/web") if name[:6] != ".ioflt")
    assert left == [first.point, second.point]
    assert findings(site, "encrypted") == []


def test_an_interrupted_restore_goes_on(site: Site, other: Volume, tmp_path: Path) -> None:
    site.back_up("encrypted")
    with pytest.raises(Stop):
        restored(site, "encrypted", other, "back", progress=after(4))
    assert "back" not in other.homes()
    (draft,) = [path for path in (tmp_path / "other/.ioflt.d").iterdir() if path.name.startswith("restore-")]
    kept = {path.name: path.stat().st_ino for path in draft.iterdir() if path.suffix == ".nvram"}
    assert kept
    (draft / "web.nvram").chmod(0o666)  # killed before it was as it had been
    os.utime(draft / "web.nvram", (0, 0))
    broken = bytearray((draft / "logs" / "a.log").read_bytes())
    broken[800 << 10 : 1 << 20] = bytes(224 << 10)  # no state of a file that was just begun
    (draft / "logs" / "a.log").write_bytes(broken)
    restored(site, "encrypted", other, "back")
    same(contents(site.home), contents(other.home("back")))
    assert (tmp_path / "other/back/web.nvram").stat().st_ino == kept["web.nvram"]
    before, afterwards = ((top / "web.nvram").stat() for top in (site.top / "web", tmp_path / "other/back"))
    assert (before.st_mode, before.st_mtime_ns) == (afterwards.st_mode, afterwards.st_mtime_ns)
    assert [path.name for path in (tmp_path / "other/.ioflt.d").iterdir()] == []


def test_a_restore_of_another_point_starts_anew(site: Site, other: Volume, tmp_path: Path) -> None:
    first = site.back_up("encrypted")
    with pytest.raises(Stop):
        restored(site, "encrypted", other, "back", progress=after(4))
    site.write("data.raw", 0, b"later")
    site.back_up("encrypted")
    restored(site, "encrypted", other, "back")
    assert contents(other.home("back"))["data.raw"].startswith(b"later")
    assert [path.name for path in (tmp_path / "other/.ioflt.d").iterdir()] == []
    restored(site, "encrypted", other, "older", first.point)
    assert not contents(other.home("older"))["data.raw"].startswith(b"later")


# What is not whole


def test_verify_says_what_is_missing_or_changed(site: Site) -> None:
    full = site.back_up("ciphertext")
    increment = site.back_up("ciphertext", incremental=True)
    top = site.path_of_all / "ciphertext" / "web"
    image = top / increment.point / "web-flat.vmdk.qcow2"
    data = bytearray(image.read_bytes())
    data[-1] ^= 1
    image.write_bytes(data)
    (top / increment.point / "files" / "web.vmx").unlink()
    (top / increment.point / "files" / "stranger").touch()
    assert findings(site, "ciphertext") == [
        (increment.point, "web-flat.vmdk.qcow2", "changed (other bytes of the same length)"),
        (increment.point, "files/web.vmx", "file missing (No such file or directory)"),
        (increment.point, "files/stranger", "not in the manifest"),
    ]
    shutil.rmtree(top / full.point)
    told = {(file, finding) for _, file, finding in findings(site, "ciphertext")}
    assert ("data.raw.qcow2", f"its link is missing: the point {full.point}, on which it builds") in told


def test_verify_knows_whose_signature_it_is(site: Site, tmp_path: Path) -> None:
    made = site.back_up("ciphertext")
    other = type(site.attester)(tmp_path / "other.key").public_key()
    assert [finding for _, _, finding in findings(site, "ciphertext", other)] == [sealing.STRANGER]
    manifest = tmp_path / "ciphertext" / "web" / made.point / "manifest.json"
    text = manifest.read_bytes()
    manifest.write_bytes(text.replace(b'"powered off"', b'"crash-consistent"'))
    assert [finding for _, _, finding in findings(site, "ciphertext")] == [
        "manifest was changed (its signature is of another one)"
    ]
    manifest.write_bytes(text.replace(b'"signature":"', b'"signature":"00')[: len(text)])
    assert len(findings(site, "ciphertext")) == 1


def test_a_changed_image_is_not_restored(site: Site, other: Volume, tmp_path: Path) -> None:
    """The manifest of a point says what was read; an image that holds something else is refused."""
    full = site.back_up("clear")
    image = tmp_path / "clear" / "web" / full.point / "web.vmdk.qcow2"
    data = bytearray(image.read_bytes())
    data[data.index(DISK[:64])] ^= 1
    image.write_bytes(data)
    with pytest.raises(CorruptDataError, match="changed"):
        restored(site, "clear", other, "back")
    assert other.homes() == []
    assert [path.name for path in (tmp_path / "other/.ioflt.d").iterdir()] == []


def test_a_missing_link_is_named(site: Site, other: Volume) -> None:
    full = site.back_up("clear")
    site.back_up("clear", incremental=True)
    shutil.rmtree(site.path_of_all / "clear" / "web" / full.point)
    with pytest.raises(MalformedError, match=f"link missing .the point {full.point}"):
        restored(site, "clear", other, "back")


def test_a_manifest_of_another_point_is_refused(site: Site) -> None:
    first, second = site.back_up("clear"), site.back_up("clear")
    top = site.path_of_all / "clear" / "web"
    shutil.copy(top / first.point / "manifest.json", top / second.point / "manifest.json")
    with (
        site.destination("clear") as found,
        found.shelf("web") as shelf,
        pytest.raises(MalformedError, match="manifest of another point"),
    ):
        shelf.document(second.point)


def test_points_by_time(site: Site) -> None:
    made = site.back_up("clear")
    with site.destination("clear") as found, found.shelf("web") as shelf:
        assert listing.at(shelf, None) == made.point
        assert listing.at(shelf, made.point) == made.point
        day = f"{made.point[:4]}-{made.point[4:6]}-{made.point[6:8]}"
        assert listing.at(shelf, day) == listing.at(shelf, made.point[:8]) == made.point
        assert listing.at(shelf, "2999-01-01T00:00:00+02:00") == made.point
        with pytest.raises(NotFoundError, match="as old as"):
            listing.at(shelf, "1999-01-01")
        for moment in ("yesterday", "9999-12-31T23:59:59-14:00"):
            with pytest.raises(UsageError, match="neither"):
                listing.at(shelf, moment)


def test_a_point_of_the_future_is_told(site: Site) -> None:
    """By a clock that was wrong once: what comes after is called later still, and prune goes by that."""
    first = site.back_up("clear")
    assert all("clock" not in note for note in first.notes)
    (site.path_of_all / "clear" / "web" / "29990101T000000Z").mkdir()
    second = site.back_up("clear")
    assert second.point == "29990101T000001Z"
    assert any("later than this machine's clock" in note for note in second.notes)


def test_an_unsigned_manifest_is_refused(site: Site) -> None:
    site.back_up("clear")
    with site.destination("clear") as found, found.shelf("web") as shelf:
        document = shelf.document(shelf.points()[0])
    with pytest.raises(AuthenticationError, match=sealing.STRANGER):
        sealing.check(document, "-----BEGIN PUBLIC KEY-----")
    sealing.check(document, None)
    assert sealing.attested(document) == ("user:alice", "2026-01-01T00:00:00Z")


def test_the_disk_is_as_long_as_it_was(site: Site) -> None:
    made = site.back_up("encrypted")
    assert {disk.path: disk.capacity for disk in made.disks} == {
        "data.raw": 366_080,
        "web.vmdk": LENGTH,
    }
