"""The file of ids of homes of which keyd sealed a record."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ioflt.crypto.rng import new_uuid
from ioflt.errors import MalformedError, StorageError
from ioflt.keyd import home_ids
from ioflt.keyd.home_ids import HomeIds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home-ids"


def test_it_is_read_as_it_was_written(path: Path) -> None:
    ids, there = [new_uuid(), new_uuid()], HomeIds(path)
    for ident in (*ids, *ids):
        there.add(ident)
    assert path.read_text() == "".join(f"{ident}\n" for ident in ids)
    assert path.stat().st_mode & 0o777 == 0o600
    again = HomeIds(path)
    assert [ident in again for ident in (*ids, new_uuid())] == [True, True, False]


@pytest.mark.parametrize("left", [b"0f0e0d0c-0b0a-4908", bytes(37)])
def test_what_a_crash_left_of_a_line_is_written_over(path: Path, left: bytes) -> None:
    ids = [new_uuid(), new_uuid()]
    HomeIds(path).add(ids[0])
    path.write_bytes(path.read_bytes() + left)
    HomeIds(path).add(ids[1])
    assert path.read_text() == "".join(f"{ident}\n" for ident in ids)


@pytest.mark.parametrize("wrong", [b"x\n", b"\n", bytes(38), None])
def test_what_is_not_as_it_is_written_is_not_read(path: Path, wrong: bytes | None) -> None:
    HomeIds(path).add(new_uuid())
    data = path.read_bytes()
    path.write_bytes(data + (data if wrong is None else wrong))
    with pytest.raises(MalformedError, match=r"that a VM has an id|which ids VMs have"):
        HomeIds(path)


def test_more_are_not_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(home_ids, "MAX_IDS", 2)
    ids, there = [new_uuid() for _ in range(3)], HomeIds(path)
    with caplog.at_level("CRITICAL"):
        for ident in ids:
            there.add(ident)
    assert [ident in HomeIds(path) for ident in ids] == [True, True, False]


def test_what_was_not_written_is_not_known(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ident, there = new_uuid(), HomeIds(path)
    with monkeypatch.context() as broken:

        def short(fd: int, data: bytes, offset: int, real=os.pwrite) -> int:
            return real(fd, data[:20], offset)

        broken.setattr(home_ids.os, "pwrite", short)
        with pytest.raises(StorageError) as caught:
            there.add(ident)
        assert caught.value.errno == errno.ENOSPC
    assert ident not in there
    there.add(ident)
    assert ident in HomeIds(path)
