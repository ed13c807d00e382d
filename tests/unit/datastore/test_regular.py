"""The files of a home while others make, rename and remove some, and where a directory may not be read."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ioflt.backup import homefiles, sources
from ioflt.datastore.home import Home
from ioflt.datastore.regular import regular_files
from ioflt.errors import StorageError
from tests.unit.datastore.stored import Stored

#: Who may read only what everybody may.
NOBODY = 65534


def by_path(home: Home) -> list[str]:
    return [entry.path for entry in regular_files(home)]


def of_a_backup(home: Home) -> list[str]:
    return homefiles.look(home).files


def of_ciphertext(home: Home) -> list[str]:
    return [disk.path for disk in sources.Stored(home).disks]


@pytest.fixture
def stored(tmp_path: Path, ioflt_home: Path) -> Iterator[Stored]:
    made = Stored(tmp_path)
    made.put("stays", b"x")
    yield made
    made.close()


@contextmanager
def churned(top: Path) -> Iterator[None]:
    """Files and directories come, get other names, and go."""
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            for number in range(20):
                (top / f"directory{number}").mkdir()
                (top / f"directory{number}" / "inside").write_bytes(b"")
                (top / f"file{number}").write_bytes(b"")
            for number in range(20):
                (top / f"file{number}").rename(top / f"file{number}-new")
                (top / f"file{number}-new").unlink()
                (top / f"directory{number}" / "inside").unlink()
                (top / f"directory{number}").rmdir()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("look", [by_path, of_ciphertext])
def test_what_comes_and_goes_disturbs_nobody(stored: Stored, look: Callable[[Home], list[str]]) -> None:
    with churned(stored.path("")):
        for _ in range(300):
            assert "stays" in look(stored.home)


@pytest.mark.root
@pytest.mark.parametrize("look", [by_path, of_a_backup, of_ciphertext])
def test_no_directory_is_left_out(stored: Stored, look: Callable[[Home], list[str]]) -> None:
    stored.path("own").mkdir(0o700)
    stored.home.standing()
    os.seteuid(NOBODY)
    try:
        with pytest.raises((StorageError, PermissionError), match="Permission denied"):
            look(stored.home)
    finally:
        os.seteuid(0)
