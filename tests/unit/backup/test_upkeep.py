"""Points pruned, copied elsewhere, and put back as they are stored."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from ioflt.backup import listing, prune, putback, replicate, restore, verify
from ioflt.backup.retention import Keep
from ioflt.datastore import check, recrypt
from ioflt.errors import BusyError, CorruptDataError, ExistsError, MalformedError, ReadOnlyError, UsageError
from tests.unit.backup.points import K64, Site, contents
from tests.unit.backup.test_points import Stop, after, findings, same

KINDS = ["encrypted", "clear", "ciphertext"]


@pytest.fixture
def site(ioflt_home: Path, tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def chain(site: Site, kind: str, length: int) -> list[tuple[str, dict[str, bytes]]]:
    """A full backup and increments, with what the VM was at each."""
    found = []
    for number in range(length):
        site.write("web-flat.vmdk", (5 + number) * K64 + 7, bytes([number + 1]) * 100)
        site.write("web-flat.vmdk", 0, bytes(number) + b"x" * number)
        if number == 2:
            site.write("web-flat.vmdk", K64, bytes(2 * K64))
        found.append((site.back_up(kind, incremental=number > 0).point, contents(site.home)))
    return found


def get_back(site: Site, kind: str, point: str, name: str) -> dict[str, bytes]:
    """What the VM was at a point."""
    with site.destination(kind) as found, found.shelf("web") as shelf:
        manifest = shelf.document(listing.at(shelf, point)).manifest
        restore.restore(shelf, manifest, site.volume, name)
        return contents(site.volume.home(name))


def pruned(site: Site, kind: str, keep: Keep, calls: int | None = None) -> prune.Plan:
    with site.destination(kind) as found, found.shelf("web") as shelf, shelf.alone():
        wanted = prune.plan(shelf, keep)
        prune.prune(shelf, wanted, site, site.attester.public_key(), None if calls is None else after(calls))
        return wanted


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("last", [1, 2, 3])
def test_what_stays_of_a_chain_is_whole(site: Site, kind: str, last: int) -> None:
    points = chain(site, kind, 4)
    wanted = pruned(site, kind, Keep(last=last))
    assert wanted.kept == [point for point, _ in points[-last:]]
    assert wanted.merged == wanted.kept[:1]
    assert findings(site, kind) == []
    for number, (point, before) in enumerate(points[-last:]):
        same(before, get_back(site, kind, point, f"back{number}"))
    later = site.back_up(kind, incremental=True)
    assert later.parents == {points[-1][0]}


def test_a_point_in_the_middle_goes(site: Site) -> None:
    """What builds on it builds on the one before, and has the zeros of both."""
    points = chain(site, "clear", 4)
    with site.destination("clear") as found, found.shelf("web") as shelf, shelf.alone():
        stay = [points[0][0], points[3][0]]
        prune.prune(
            shelf,
            prune.Plan("web", stay, [stay[1]], [points[1][0], points[2][0]]),
            site,
            site.attester.public_key(),
        )
        assert shelf.document(stay[1]).manifest.parents == {stay[0]}
    assert findings(site, "clear") == []
    for number in (0, 3):
        same(points[number][1], get_back(site, "clear", points[number][0], f"back{number}"))


def test_a_disk_that_ended_within_a_cluster_lost_none_of_it(site: Site) -> None:
    """It has grown since, and what goes is shorter: the rest of its last cluster is of the point before."""
    site.put("odd.raw", random.Random(3).randbytes(K64 + 512))
    first = site.back_up("clear").point
    site.write("odd.raw", 0, b"changed")
    middle = site.back_up("clear", incremental=True).point
    site.resize("odd.raw", 4 * K64)
    last = site.back_up("clear", incremental=True).point
    with site.destination("clear") as found, found.shelf("web") as shelf, shelf.alone():
        prune.prune(
            shelf, prune.Plan("web", [first, last], [last], [middle]), site, site.attester.public_key()
        )
    assert get_back(site, "clear", last, "back")["odd.raw"] == contents(site.home)["odd.raw"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_prune_leaves_each_point_whole(site: Site, kind: str) -> None:
    points = chain(site, kind, 3)
    for calls in range(0, 9, 2):
        with pytest.raises(Stop):
            pruned(site, kind, Keep(last=1), calls)
        assert findings(site, kind) == []
    pruned(site, kind, Keep(last=1))
    assert findings(site, kind) == []
    with site.destination(kind) as found, found.shelf("web") as shelf:
        assert shelf.points() == [points[-1][0]]


def test_a_point_is_there_while_it_is_made_anew(site: Site) -> None:
    """Killed between two renames it would be missing until somebody writes there again."""
    points = [point for point, _ in chain(site, "clear", 2)]
    with site.destination("clear") as found, found.shelf("web") as shelf, shelf.alone():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "rename", None)
            wanted = prune.Plan("web", points[1:], points[1:], [])
            prune.prune(shelf, wanted, site, site.attester.public_key())
        assert shelf.points() == points
        assert shelf.document(points[1]).manifest.full
    assert findings(site, "clear") == []


def test_nothing_is_lost_of_a_chain_that_is_not_whole(site: Site) -> None:
    points = chain(site, "clear", 3)
    image = site.path_of_all / "clear" / "web" / points[1][0] / "web.vmdk.qcow2"
    data = bytearray(image.read_bytes())
    data[-1] ^= 1
    image.write_bytes(data)
    with pytest.raises(CorruptDataError, match="changed"):
        pruned(site, "clear", Keep(last=1))
    with site.destination("clear") as found, found.shelf("web") as shelf:
        assert shelf.points() == [point for point, _ in points]
    with pytest.raises(UsageError, match="nothing would be kept"):
        pruned(site, "clear", Keep())


# Elsewhere


@pytest.mark.parametrize("kind", KINDS)
def test_points_are_copied(site: Site, kind: str, tmp_path: Path) -> None:
    points = [point for point, _ in chain(site, kind, 2)]
    there = tmp_path / "second"
    twin = site.elsewhere(there)
    copied: list[str] = []
    for _ in range(2):
        with site.destination(kind) as source, twin.destination(kind) as target:
            replicate.check_kinds(source, target)
            target.make_shelf("web")
            with source.shelf("web") as old, target.shelf("web") as new, new.alone():
                for point in replicate.missing(old, new):
                    replicate.replicate(old, new, point)
                    copied.append(point)
    assert copied == points
    assert findings(twin, kind) == []
    other = "encrypted" if kind == "clear" else "clear"
    with (
        site.destination(kind) as source,
        twin.destination(other) as target,
        pytest.raises(UsageError, match="backups, these are"),
    ):
        replicate.check_kinds(source, target)


@pytest.mark.parametrize("kind", KINDS)
def test_points_are_copied_after_a_prune(site: Site, kind: str, tmp_path: Path) -> None:
    """What was made anew is the same backup still, and what builds on it builds on the copy."""
    chain(site, kind, 2)
    twin = site.elsewhere(tmp_path / "second")

    def copied() -> list[str]:
        with site.destination(kind) as source, twin.destination(kind) as target:
            target.make_shelf("web")
            with source.shelf("web") as old, target.shelf("web") as new, new.alone():
                points = replicate.missing(old, new)
                for point in points:
                    replicate.replicate(old, new, point)
                return points

    assert len(copied()) == 2
    pruned(site, kind, Keep(last=1))
    assert copied() == []
    site.write("web-flat.vmdk", 9 * K64, b"since")
    later = site.back_up(kind, incremental=True).point
    assert copied() == [later]
    assert findings(twin, kind) == []
    if kind != "ciphertext":
        same(contents(site.home), get_back(twin, kind, later, "back"))


def test_a_shelf_without_points_is_no_choice(site: Site) -> None:
    """What a copy that failed leaves: a restore still knows which VM is meant."""
    site.back_up("clear")
    with site.destination("clear") as found:
        found.make_shelf("empty")
        assert listing.sole(found) == "web"


def test_what_is_not_whole_is_not_copied(site: Site, tmp_path: Path) -> None:
    (first, _), (second, _) = chain(site, "ciphertext", 2)
    image = tmp_path / "ciphertext" / "web" / first / "web-flat.vmdk.qcow2"
    data = bytearray(image.read_bytes())
    data[-1] ^= 1
    image.write_bytes(data)
    twin = site.elsewhere(tmp_path / "second")
    with site.destination("ciphertext") as source, twin.destination("ciphertext") as target:
        target.make_shelf("web")
        with source.shelf("web") as old, target.shelf("web") as new, new.alone():
            with pytest.raises(MalformedError, match="changed") as raised:
                replicate.replicate(old, new, first)
            assert raised.value.file == str(image)
            with pytest.raises(MalformedError, match="link missing"):
                replicate.replicate(old, new, second)
            assert new.points() == []
            assert os.listdir(tmp_path / "second" / "ciphertext" / "web") == []


def test_where_nothing_can_be_made_that_is_said_of_the_vm(site: Site, tmp_path: Path) -> None:
    chain(site, "encrypted", 2)
    home = tmp_path / "encrypted" / "web"
    (home / ".ioflt").write_bytes(b"no record")
    with pytest.raises(ReadOnlyError, match="its record is unusable") as raised:
        pruned(site, "encrypted", Keep(last=1))
    assert raised.value.file == str(home)


# Ciphertext


def test_ciphertext_is_put_back_where_the_vm_was(site: Site, tmp_path: Path) -> None:
    """Of the newest record: it is the VM that it was."""
    points = chain(site, "ciphertext", 3)
    home_id = site.home.standing().record.home_id  # type: ignore[union-attr]
    shutil.rmtree(site.top / "web")
    with site.destination("ciphertext") as found, found.shelf("web") as shelf:
        manifest = shelf.document(points[1][0]).manifest
        putback.put_back(shelf, manifest, site.volume, "web")
    assert putback.vouch(site.volume, "web") is None
    home = site.volume.home("web")
    assert home.standing().record.home_id == home_id  # type: ignore[union-attr]
    assert contents(home) == points[1][1]
    assert [each.finding for each in check.run(site.volume.path, site.keys).entries if each.finding] == []


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("owners", [True, False])
def test_files_have_the_permissions_and_owners_that_they_had(site: Site, kind: str, *, owners: bool) -> None:
    top = site.top / "web"
    for number, path in enumerate(
        ("", "logs", "logs/a.log", "logs/current", "web.vmdk", "data.raw", "web.vmx")
    ):
        os.chown(top / path, 7000 + number, 8000 + number, follow_symlinks=False)
        if path != "logs/current":
            os.chmod(top / path, 0o700 + number)
    before = looks(top)
    assert ("web.vmdk", 0o704, 7004, 8004) in before
    site.back_up(kind)
    shutil.rmtree(top)
    with site.destination(kind) as found, found.shelf("web") as shelf:
        manifest = shelf.document(listing.named(shelf, None)).manifest
        if kind == "ciphertext":
            putback.put_back(shelf, manifest, site.volume, "web", owners=owners)
        else:
            restore.restore(shelf, manifest, site.volume, "web", owners=owners)
    after = looks(top)
    flat = "web-flat.vmdk"  # made anew, with what the disk's file has
    assert [each for each in after if each[0] != flat] == [
        (path, mode, *((uid, gid) if owners else (0, 0))) for path, mode, uid, gid in before if path != flat
    ]


def looks(top: Path) -> list[tuple[str, int, int, int]]:
    """Path, permissions and owners of a directory and of what is in it, beside what is ours."""
    found = []
    for path in (top, *sorted(top.rglob("*"))):
        name = str(path.relative_to(top))
        if not name.startswith(".ioflt"):
            info = path.lstat()
            found.append((name, info.st_mode & 0o777, info.st_uid, info.st_gid))
    return found


@pytest.mark.allow_log("rolled back, and accepted")
def test_an_older_one_is_another_vm(site: Site) -> None:
    """Its keys were changed since: whoever puts it back vouches for it, and gets a VM with another id."""
    (point, before), *_ = chain(site, "ciphertext", 1)
    old = site.home.standing().record
    recrypt.recrypt(site.volume, "web")
    shutil.rmtree(site.top / "web")
    with site.destination("ciphertext") as found, found.shelf("web") as shelf:
        putback.put_back(shelf, shelf.document(point).manifest, site.volume, "web")
    home = site.volume.home("web")
    assert "rolled back" in (home.standing().problem or "")
    assert putback.vouch(site.volume, "web") is None
    assert old is not None
    assert home.standing().record.home_id != old.home_id  # type: ignore[union-attr]
    assert contents(site.volume.home("web")) == before


def test_it_is_not_put_beside_itself(site: Site) -> None:
    (point, _), *_ = chain(site, "ciphertext", 1)
    with (
        site.destination("ciphertext") as found,
        found.shelf("web") as shelf,
        pytest.raises(ExistsError, match="the same VM is in"),
    ):
        putback.put_back(shelf, shelf.document(point).manifest, site.volume, "copy")
    assert site.volume.homes() == ["web"]
    assert os.listdir(site.top / ".ioflt.d") == []


def test_what_was_interrupted_goes_on(site: Site) -> None:
    (point, before), *_ = chain(site, "ciphertext", 1)
    shutil.rmtree(site.top / "web")

    def until_the_next(_count: int) -> None:
        """Which comes after `data.raw`: how often its progress is told is up to the file system's extents."""
        if list(site.top.glob(".ioflt.d/*/web-flat.vmdk")):
            raise Stop

    with site.destination("ciphertext") as found, found.shelf("web") as shelf:
        manifest = shelf.document(point).manifest
        with pytest.raises(Stop):
            putback.put_back(shelf, manifest, site.volume, "web", until_the_next)
        (draft,) = (site.top / ".ioflt.d").iterdir()
        inode = (draft / "data.raw").stat().st_ino
        putback.put_back(shelf, manifest, site.volume, "web")
    assert (site.top / "web" / "data.raw").stat().st_ino == inode
    assert contents(site.volume.home("web")) == before


def test_nobody_needs_a_key_for_ciphertext(site: Site) -> None:
    """To list, verify, copy and prune, nor for the backup itself."""
    chain(site, "ciphertext", 2)
    site.keys.close()
    with site.destination("ciphertext") as found:
        assert len(listing.points(found)) == 2
        assert verify.verify(found, key=site.attester.public_key()).findings == []
    pruned(site, "ciphertext", Keep(last=1))
    assert findings(site, "ciphertext") == []


def damaged_after(what: Callable[[], object]) -> NoReturn:
    what()
    raise MalformedError("changed")


def test_what_a_prune_changes_meanwhile_is_not_damaged(site: Site) -> None:
    """Who reads finds other images than the manifest tells that he has read."""
    chain(site, "clear", 3)
    calls = itertools.count()

    def prune_once(_count: int) -> None:
        if next(calls) == 1:
            pruned(site, "clear", Keep(last=1))

    with site.destination("clear") as found:
        done = verify.verify(found, key=site.attester.public_key(), progress=prune_once)
        assert (done.points, done.findings) == (1, [])
        with found.shelf("web") as shelf:
            with pytest.raises(MalformedError, match="changed"), shelf.steady():
                raise MalformedError("changed")
            site.back_up("clear", incremental=True)
            with pytest.raises(BusyError, match="made anew, meanwhile"), shelf.steady():
                damaged_after(lambda: pruned(site, "clear", Keep(last=1)))
