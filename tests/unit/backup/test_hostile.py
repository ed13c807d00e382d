"""What whoever controls a destination may leave there."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from ioflt.backup import prune, putback, restore, run, sealing
from ioflt.backup.images import Chain
from ioflt.backup.retention import Keep
from ioflt.backup.run import Wanted
from ioflt.datastore import lifecycle
from ioflt.datastore.volume import Volume
from ioflt.errors import AuthenticationError, MalformedError, StorageError, UsageError
from ioflt.format.manifest import text
from ioflt.format.manifest.model import Manifest
from ioflt.keyd.attester import Attester
from ioflt.wire.keyd.values import Signing
from tests.unit.backup.disks import qcow2
from tests.unit.backup.points import K64, Site
from tests.unit.backup.test_points import findings
from tests.unit.backup.test_upkeep import chain, pruned


@pytest.fixture
def site(ioflt_home: Path, tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def forge(site: Site, manifest: Manifest) -> None:
    """In place of the one of its point in the clear destination, signed by another key than the site's."""
    own, site.attester = site.attester, Attester(site.path_of_all / "other.key")
    path = site.path_of_all / "clear" / manifest.vm / manifest.point / text.NAME
    path.write_bytes(site.signed(manifest))
    site.attester = own


def refused(site: Site, manifest: Manifest, error: type[Exception], match: str) -> None:
    """A restore by that manifest, of the clear destination; of the VM nothing is there then."""
    with (
        site.destination("clear") as found,
        found.shelf("web") as shelf,
        pytest.raises(error, match=match),
    ):
        restore.restore(shelf, manifest, site.volume, "back")
    assert site.volume.homes() == ["web"]


def test_names_that_are_no_time_are_no_points(site: Site) -> None:
    made = site.back_up("clear")
    top = site.path_of_all / "clear" / "web"
    for name in ("99999999T999999Z", "20261301T000000Z", ".old-web", ".old-.."):
        (top / name).mkdir()
    with site.destination("clear") as found, found.shelf("web") as shelf, shelf.alone():
        assert shelf.points() == [made.point]
        assert not (top / "web").exists()
    (top / "99991231T235959Z").mkdir()
    with pytest.raises(MalformedError, match="no later one"):
        site.back_up("clear")


def test_a_directory_of_a_strange_name_hides_no_others(site: Site) -> None:
    site.back_up("ciphertext")
    for name in ("we\x1bb", 'a"b', ".hidden", "x" * 250):
        (site.path_of_all / "ciphertext" / name).mkdir()
    with site.destination("ciphertext") as found:
        assert found.vms() == ["web"]
    assert findings(site, "ciphertext", vm=None) == []


@pytest.mark.parametrize("path", [".ioflt", ".ioflt.d/x", ".ioflt.d", ".ioflt.d/x.tags"])
def test_nothing_of_ours_comes_from_a_manifest(site: Site, path: str) -> None:
    """Neither a record nor tags: a VM that is restored has its own."""
    made = site.back_up("clear")
    nvram = next(file for file in made.files if file.path == "web.nvram")
    files = [*made.files, msgspec.structs.replace(nvram, path=path)]
    for kind, reason in (("clear", "bad path"), ("ciphertext", "manifest of another kind|bad path")):
        ordered = tuple(sorted(files, key=lambda file: file.path))
        forge(site, msgspec.structs.replace(made, kind=kind, files=ordered))
        with (
            site.destination("clear") as found,
            found.shelf("web") as shelf,
            pytest.raises(MalformedError, match=reason),
        ):
            restore.restore(shelf, shelf.document(made.point).manifest, site.volume, "back")
    assert site.volume.homes() == ["web"]


@pytest.mark.parametrize(("kind", "change"), [("encrypted", lifecycle.decrypt), ("clear", lifecycle.encrypt)])
def test_no_point_on_a_shelf_of_another_state(
    site: Site, kind: str, change: Callable[[Volume, str], object]
) -> None:
    """No plaintext comes to rest in a destination that is called encrypted."""
    made = site.back_up(kind)
    with site.destination(kind) as found:
        assert found.volume is not None
        change(found.volume, "web")
    with pytest.raises(UsageError, match=f"in a destination that is {kind}"):
        site.back_up(kind, incremental=True)
    with site.destination(kind) as found, found.shelf("web") as shelf:
        assert shelf.points() == [made.point]


def test_a_signature_that_somebody_got_for_another_vm_is_refused(site: Site) -> None:
    """keyd asks for privileges on the VM that it states."""
    site.back_up("clear")
    with site.destination("clear") as found, found.shelf("web") as shelf:
        manifest = shelf.document(shelf.points()[0]).manifest
        other = "0f0e0d0c-0b0a-4908-8706-050403020100"
        data = sealing.signed(manifest, site, Signing(other, "his own", "/srv/kept"))
        with pytest.raises(AuthenticationError, match="signed for another VM"):
            sealing.check(text.parse(data), None)


def test_prune_signs_nothing_that_another_signed(site: Site) -> None:
    """Neither what is made anew, nor what of others goes into it."""
    points = [point for point, _ in chain(site, "clear", 3)]
    for number in (2, 1):
        with site.destination("clear") as found, found.shelf("web") as shelf:
            manifest = shelf.document(points[number]).manifest
            forge(site, msgspec.structs.replace(manifest, host="elsewhere"))
            with pytest.raises(AuthenticationError, match="signed by another key"), shelf.alone():
                prune.prune(shelf, prune.plan(shelf, Keep(last=1)), site, site.attester.public_key())
            assert shelf.points() == points
            (site.path_of_all / "clear" / "web" / points[number] / text.NAME).write_bytes(
                site.signed(manifest)
            )
    pruned(site, "clear", Keep(last=1))


def test_an_increment_builds_on_nothing_that_another_signed(site: Site) -> None:
    points = [point for point, _ in chain(site, "clear", 2)]
    with site.destination("clear") as found, found.shelf("web") as shelf:
        forge(site, shelf.document(points[0]).manifest)
    key = site.attester.public_key()
    with site.destination("clear") as found:
        made = run.run(site.volume, "web", found, Wanted(incremental=True), site, key=key)
        assert made.full
        assert any("signed by another key" in note for note in made.notes)
        with found.shelf("web") as shelf:
            told = [
                document.signed.key == key for document in sealing.behind(shelf, shelf.document(points[1]))
            ]
    assert told == [True, False]
    assert {point for point, _, _ in findings(site, "clear", point=points[1])} == {points[0]}


# A destination that gives other bytes at each look


def test_what_was_looked_at_is_what_is_used(site: Site) -> None:
    data = random.Random(3).randbytes(40 * K64)  # more than is kept in memory
    site.write("web-flat.vmdk", 0, data)
    made = site.back_up("clear")
    image = site.path_of_all / "clear" / "web" / made.point / "web.vmdk.qcow2"
    changed = bytearray(image.read_bytes())
    changed[changed.index(data[20 * K64 : 20 * K64 + 64])] ^= 1
    with site.destination("clear") as found, found.shelf("web") as shelf:
        with Chain(shelf, [made], "web.vmdk", proved=1) as disk:
            other = image.with_name("other")
            other.write_bytes(changed)
            kept = image.with_name("kept")
            os.link(image, kept)
            os.replace(other, image)
            assert disk.read(20 * K64, K64) == data[20 * K64 : 21 * K64]  # of the file that was looked at
        os.replace(kept, image)
        with Chain(shelf, [made], "web.vmdk", proved=1) as disk:
            image.write_bytes(changed)  # the same file
            with pytest.raises(MalformedError, match="changed"):
                disk.read(20 * K64, K64)


@pytest.mark.parametrize("part", ["magic", "L1 entry", "L2 entry", "cluster"])
def test_of_a_changed_image_it_is_said_that_it_is_changed(site: Site, part: str) -> None:
    """And not what makes no sense in it, as what it holds is read before all of it was."""
    made = site.back_up("clear")
    path = site.path_of_all / "clear" / "web" / made.point / "data.raw.qcow2"
    image = bytearray(path.read_bytes())
    l1 = int.from_bytes(image[40:48], "big")
    l2 = int.from_bytes(image[l1 : l1 + 8], "big") & ((1 << 56) - 1)
    places = {"magic": 0, "L1 entry": l1, "L2 entry": l2 + 7, "cluster": 2 * K64}
    image[places[part]] ^= 0x55
    path.write_bytes(image)
    assert findings(site, "clear") == [
        (made.point, "data.raw.qcow2", "changed (other bytes of the same length)")
    ]


def test_no_more_is_copied_than_the_manifest_says(site: Site) -> None:
    made = site.back_up("clear")
    file = site.path_of_all / "clear" / "web" / made.point / "files" / "web.nvram"
    os.truncate(file, 1 << 40)
    told = f"changed \\({1 << 40} bytes, the manifest says 5000\\)"
    refused(site, made, MalformedError, told)


@pytest.mark.parametrize("zeros", [False, True])
def test_a_small_image_is_no_disk_beyond_measure(site: Site, *, zeros: bool) -> None:
    """One table of 512 MiB that stands for each part of the disk, by somebody who signs it."""
    made = site.back_up("clear")
    parts = 4096 if zeros else 8
    image = bytearray(qcow2(parts << 29, *((number * K64, b"x" * K64) for number in range(4))))
    l1 = int.from_bytes(image[40:48], "big")
    if zeros:
        table = int.from_bytes(image[l1 : l1 + 8], "big") & ((1 << 56) - 1)
        image[table : table + K64] = (1).to_bytes(8, "big") * (K64 // 8)
    image[l1 : l1 + 8 * parts] = image[l1 : l1 + 8] * parts
    path = site.path_of_all / "clear" / "web" / made.point / "data.raw.qcow2"
    path.write_bytes(image)
    disks = tuple(
        msgspec.structs.replace(
            disk, capacity=parts << 29, stored=len(image), sha256=hashlib.sha256(image).hexdigest()
        )
        if disk.path == "data.raw"
        else disk
        for disk in made.disks
    )
    forged = msgspec.structs.replace(made, disks=disks)
    refused(site, forged, MalformedError, "more than it holds")


def test_no_thick_disk_without_room(site: Site) -> None:
    made = site.back_up("clear")
    disks = tuple(msgspec.structs.replace(disk, capacity=1 << 55) for disk in made.disks)
    forged = msgspec.structs.replace(made, disks=disks, thick=True)
    refused(site, forged, StorageError, "its thick disks take")


def test_the_record_that_is_looked_at_is_the_one_that_comes_back(site: Site) -> None:
    made = site.back_up("ciphertext")
    record = site.path_of_all / "ciphertext" / "web" / made.point / "files" / ".ioflt"
    record.write_bytes(record.read_bytes().replace(made.home_id.encode(), made.home_id[::-1].encode()))
    shutil.rmtree(site.top / "web")
    with (
        site.destination("ciphertext") as found,
        found.shelf("web") as shelf,
        pytest.raises(MalformedError, match="changed"),
    ):
        putback.put_back(shelf, made, site.volume, "web")
