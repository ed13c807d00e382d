"""Moves out of, into and across real mounts: file systems that take no writes, and one that is seen twice."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.mounted.place import Place

pytestmark = [pytest.mark.fuse, pytest.mark.root]

TEXT = b"contents" * 10_000


@pytest.fixture
def web(place: Place) -> Path:
    """A VM in a datastore of which nothing is mounted by ioflt."""
    home = place.mount() / "web"
    home.mkdir()
    (home / "disk.raw").write_bytes(TEXT)
    place.umount()
    return place.datastore / "web"


@pytest.fixture
def other(place: Place, web: Path) -> Path:
    """Another datastore on the same file system."""
    directory = place.base / "other"
    place.ioflt("datastore", "init", directory, "--encrypt")
    return directory


@contextmanager
def bound(directory: Path, at: Path, *options: str) -> Iterator[Path]:
    """The directory at a second place, by a bind mount."""
    at.mkdir()
    subprocess.run(["mount", "--bind", directory, at], check=True)
    try:
        if options:
            subprocess.run(["mount", "-o", ",".join(("remount", "bind", *options)), at], check=True)
        yield at
    finally:
        subprocess.run(["umount", at], check=True)
        at.rmdir()


@contextmanager
def on_loop(base: Path, directory: Path) -> Iterator[Path]:
    """The directory on a file system of its own, which is mounted read-only."""
    image, at = base / "image", base / "loop"
    at.mkdir()
    with image.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", directory, image], check=True)
    subprocess.run(["mount", "-o", "loop,ro", image, at], check=True)
    shutil.rmtree(directory / "web")
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


def tree(*directories: Path) -> dict[str, tuple[int, int]]:
    """All that lies there, with times of change."""
    found = {}
    for directory in directories:
        for path in [directory, *directory.rglob("*")]:
            info = path.lstat()
            found[str(path)] = info.st_ino, info.st_ctime_ns
    return found


@pytest.mark.loop
@pytest.mark.parametrize("how", ["bind", "loop"])
@pytest.mark.parametrize("elsewhere", [True, False], ids=["to another datastore", "renamed"])
def test_out_of_a_read_only_file_system(
    place: Place, web: Path, other: Path, how: str, elsewhere: bool
) -> None:
    """Refused before anything is done; the hint's command does what can be done."""
    with ExitStack() as mounted:
        if how == "bind":
            source = mounted.enter_context(bound(web.parent, place.base / "ro", "ro"))
        else:
            source = mounted.enter_context(on_loop(place.base, web.parent))
        target = (other if elsewhere else source) / "new"
        before = tree(web.parent, other)
        refused = place.ioflt("vm", "move", source / "web", target, check=False)
        assert refused.returncode == 7
        assert refused.stderr.splitlines()[-2:] == [
            f"ioflt: {source}/web: cannot be moved away: its file system is mounted read-only",
            f"hint: copy it instead: ioflt vm clone {source}/web DST",
        ]
        assert tree(web.parent, other) == before
        place.ioflt("vm", "clone", source / "web", other / "new")
    place.ioflt("check", other)


def test_into_a_read_only_file_system(place: Place, web: Path, other: Path) -> None:
    with bound(other, place.base / "ro", "ro") as target:
        before = tree(web.parent, other)
        for command in ("move", "clone"):
            refused = place.ioflt("vm", command, web, target / "new", check=False)
            assert refused.returncode == 7
            assert f"ioflt: {target}: takes no new VM: its file system is mounted read-only" in refused.stderr
        assert tree(web.parent, other) == before


def test_out_of_a_directory_that_takes_no_changes(place: Place, web: Path, other: Path) -> None:
    subprocess.run(["chattr", "+i", web.parent], check=True)
    try:
        refused = place.ioflt("vm", "move", web, other / "new", check=False)
    finally:
        subprocess.run(["chattr", "-i", web.parent], check=True)
    assert f"ioflt: {web}: cannot be moved away: its directory may not be written" in refused.stderr
    assert os.listdir(other) == [".ioflt"]


def test_between_two_mounts_of_one_file_system(place: Place, web: Path, other: Path) -> None:
    """Where no rename leads from one to the other it is copied, as between file systems."""
    with bound(other, place.base / "bound") as target:
        place.ioflt("vm", "move", web, target / "new")
        assert not web.exists()
        place.ioflt("check", target)
    place.datastore = other
    assert (place.mount() / "new" / "disk.raw").read_bytes() == TEXT
