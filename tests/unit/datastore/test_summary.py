"""What is told of a datastore's homes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ioflt.datastore import summary
from ioflt.datastore.home import LOST_FOUND
from ioflt.datastore.volume import Volume
from ioflt.errors import StorageError

if TYPE_CHECKING:
    import pytest


def test_an_empty_lost_found_is_no_vm(volume: Volume) -> None:
    """A datastore is often the top of a file system of its own."""
    os.mkdir(LOST_FOUND, dir_fd=volume.fd)
    volume.make_home("web01", 0o755)
    assert [home.name for home in summary.homes(volume)] == ["web01"]
    assert os.listdir(Path(volume.path) / LOST_FOUND) == []


def test_what_was_found_is_shown(volume: Volume) -> None:
    (Path(volume.path) / LOST_FOUND).mkdir()
    (Path(volume.path) / LOST_FOUND / "#12").write_bytes(b"?")
    (found,) = summary.homes(volume)
    assert found.problem == "it has no record; `ioflt vm register` makes one"


def test_a_home_that_cannot_be_opened_hides_no_other(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    volume.make_home("other", 0o755)
    volume.make_home("web01", 0o000)
    opened = volume.home

    def home(name: str) -> object:  # root opens everything
        if name == "web01":
            raise StorageError("cannot open the VM home", 13, file=name)
        return opened(name)

    monkeypatch.setattr(volume, "home", home)
    other, web01 = summary.homes(volume)
    assert (other.state, other.problem) == (volume.record.default.value, None)
    assert (web01.state, web01.problem) == ("unknown", "cannot open the VM home: Permission denied")
