"""What whoever controls a destination may leave there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ioflt.backup import restore, sealing
from ioflt.errors import MalformedError
from ioflt.format.manifest import text
from ioflt.format.manifest.model import Manifest
from ioflt.keyd.attester import Attester
from tests.unit.backup.points import Site


@pytest.fixture
def site(ioflt_home: Path, tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def forge(site: Site, manifest: Manifest) -> None:
    """In place of the one of its point in the clear destination, signed by another key than the site's."""
    own, site.attester = site.attester, Attester(site.path_of_all / "other.key")
    path = site.path_of_all / "clear" / manifest.vm / manifest.point / text.NAME
    path.write_bytes(sealing.signed(manifest, site.sign))
    site.attester = own


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
