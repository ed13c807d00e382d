"""More names than a mount may have descriptors."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path

import pytest

from tests.mounted.place import Place
from tests.waiting import eventually

pytestmark = pytest.mark.fuse

LIMIT = 2048
NAMES = 3000


def names_of(directory: Path) -> set[str]:
    """Its names, after each was looked at."""
    with os.scandir(directory) as entries:
        return {entry.name for entry in entries if entry.stat(follow_symlinks=False).st_ino}


def test_more_names_than_descriptors(clear_place: Place) -> None:
    """As in a container, where root cannot raise the limit: the kernel lets go of what it does not use."""
    home = clear_place.mount() / "vm"
    home.mkdir()
    resource.prlimit(clear_place.pid, resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    names = {f"link{number}" for number in range(NAMES)}
    for name in names:
        (clear_place.datastore / "vm" / name).symlink_to("x")
    with (home / "open").open("wb") as file:
        assert names_of(home) == names | {"open"}
        assert set(os.listdir(home)) == names | {"open"}
        file.write(b"still open")
    assert (home / "open").read_bytes() == b"still open"
    assert clear_place.complaints() == []


def test_what_is_removed_is_let_go_of(place: Place) -> None:
    """Its last descriptor is closed beside the loop."""
    home = place.mount() / "vm"
    home.mkdir()
    for number in range(50):
        (home / f"disk{number}").write_bytes(b"x" * 5000)
    for number in range(50):
        (home / f"disk{number}").unlink()
    held = Path(f"/proc/{place.pid}/fd")

    def are_held() -> bool:
        for fd in os.listdir(held):
            with suppress(FileNotFoundError):
                path = os.readlink(held / fd)
                if path.startswith(str(place.datastore)) and path.endswith("(deleted)"):
                    return True
        return False

    eventually(lambda: not are_held())
    assert os.listdir(home) == []
