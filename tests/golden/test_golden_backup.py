"""Golden backups: what an earlier version backed up comes back in this one, given its provider's backup."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioflt.backup import prune, putback, repository, restore, verify
from ioflt.backup.repository import Repository
from ioflt.backup.retention import Keep
from ioflt.crypto.secret import Secret
from ioflt.datastore.volume import Volume
from ioflt.keyd.service import Service
from ioflt.keys.native.store import NativeStore
from ioflt.paths import find
from ioflt.types import HomeState
from tests.golden.test_golden import BACKUP_PASSPHRASE, contents, listed, sha256

GOLDEN = Path(__file__).parents[2] / "images" / "golden-backup"
POINTS = sorted(
    (version.name, *point)
    for version in GOLDEN.iterdir()
    for point in {tuple(path.split("/")[:2]) for path in listed(version / "CONTENTS.sha256")}
)


class Kept:
    """Of one version: its destinations below `top`, and the keys that it needs."""

    def __init__(self, top: Path, version: str) -> None:
        self.golden = GOLDEN / version
        subprocess.run(["tar", "-C", top, "-xJf", self.golden / "backups.tar.xz"], check=True)
        self.top = top
        where = find().ensure()
        with Secret(BACKUP_PASSPHRASE) as passphrase:
            NativeStore(where.providers).restore((self.golden / "provider.backup").read_bytes(), passphrase)
        self.keys = Service(where)

    def destination(self, kind: str) -> Iterator[Repository]:
        """It, once."""
        path = self.top / "backups" / kind
        if kind == "ciphertext":
            with repository.open_ciphertext(path) as found:
                yield found
            return
        with Volume.open(path, self.keys) as volume, repository.of_volume(volume) as found:
            yield found


@pytest.fixture
def kept(request: pytest.FixtureRequest, short_tmp: Path, ioflt_home: Path) -> Iterator[Kept]:
    made = Kept(short_tmp, request.param)
    yield made
    made.keys.close()


VERSIONS = sorted({version for version, _, _ in POINTS})


@pytest.mark.parametrize("version", VERSIONS)
def test_they_were_never_edited(version: str) -> None:
    manifest = listed(GOLDEN / version / "MANIFEST.sha256")
    assert {name: sha256((GOLDEN / version / name).read_bytes()) for name in manifest} == manifest
    names = {path.name for path in (GOLDEN / version).iterdir()}
    assert names == {*manifest, "MANIFEST.sha256", "README.md"}


@pytest.mark.parametrize(
    ("kept", "kind", "point"), POINTS, indirect=["kept"], ids=["-".join(each) for each in POINTS]
)
def test_each_point_comes_back(kept: Kept, kind: str, point: str) -> None:
    key = (kept.golden / "signer.pem").read_text()
    Volume.init(kept.top / "ds", HomeState.ENCRYPTED, kept.keys)
    with Volume.open(kept.top / "ds", kept.keys) as volume:
        for found in kept.destination(kind):
            assert verify.verify(found, key=key).findings == []
            with found.shelf("web01") as shelf:
                manifest = shelf.document(point).manifest
                if kind == "ciphertext":
                    putback.put_back(shelf, manifest, volume, "back")
                else:
                    restore.restore(shelf, manifest, volume, "back")
        held = {os.path.relpath(path, "back"): digest for path, digest in contents(volume)}
    expected = listed(kept.golden / "CONTENTS.sha256")
    place = f"{kind}/{point}/"
    assert held == {
        path.removeprefix(place): digest for path, digest in expected.items() if path.startswith(place)
    }


@pytest.mark.parametrize("kept", VERSIONS, indirect=True)
def test_they_are_pruned(kept: Kept) -> None:
    """What goes first is what others build on; a plan tells that without a change."""
    for found in kept.destination("clear"):
        with found.shelf("web01") as shelf:
            first, last = shelf.points()
            assert prune.plan(shelf, Keep(last=1)) == prune.Plan("web01", [last], [last], [first])
