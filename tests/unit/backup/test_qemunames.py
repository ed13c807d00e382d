"""Names of what is put into somebody's QEMU: one owner each, and no file of them stays."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.backup.qemunames import held


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IOFLT_HOME", str(tmp_path))
    return paths.find().ensure().run


def test_of_many_who_want_a_name_one_has_it(run: Path, tmp_path: Path) -> None:
    before = sorted(run.iterdir())
    mark = tmp_path / "mark"
    together = threading.Barrier(4)

    def hold_often() -> None:
        together.wait()
        had = 0
        while had < 200:
            with suppress(BlockingIOError), held("ioflt-hotadd-01234567"):
                mark.touch(exist_ok=False)
                mark.unlink()
                had += 1

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(hold_often) for _ in range(4)]:
            done.result()
    assert sorted(run.iterdir()) == before
