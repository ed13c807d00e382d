"""Mounted datastores. `place` is fresh for each test; `shared` serves all tests of a module."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.place import Place


@pytest.fixture
def place(ioflt_home: Path, short_tmp: Path) -> Iterator[Place]:
    """An encrypting datastore, not mounted yet, with no home."""
    made = Place(short_tmp)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def clear_place(ioflt_home: Path, short_tmp: Path) -> Iterator[Place]:
    """A datastore whose new homes are clear."""
    made = Place(short_tmp, encrypt=False)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def homes(place: Place) -> Place:
    """`place` with the homes thin, thick and clear, mounted."""
    place.make_homes()
    place.mount()
    return place


@pytest.fixture(scope="module")
def shared() -> Iterator[Place]:
    """The homes thin, thick and clear, mounted for every user, for all tests of a module."""
    base = Path(tempfile.mkdtemp(prefix=""))
    base.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IOFLT_HOME", str(base / "home"))
        (base / "home").mkdir(mode=0o700)
        made = Place(base)
        try:
            made.make_homes()
            made.mount("--allow-other")
            yield made
        finally:
            made.end()
    shutil.rmtree(base)
