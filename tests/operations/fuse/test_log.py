"""The mounts' log: several processes append to it, it stays small, and nothing floods it."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioflt.fuse import log

WRITER = """
import logging, sys
from pathlib import Path
from ioflt.fuse import log
log.SIZE = 15000
logger = logging.Logger("writer")
logger.addHandler(log.LogFile(Path(sys.argv[1])))
for number in range(200):
    logger.error("%s %d %s", sys.argv[2], number, "x" * 40)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mount.log"


@pytest.fixture
def logger(path: Path) -> Iterator[logging.Logger]:
    made = logging.Logger("mount")
    handler = log.LogFile(path)
    made.addHandler(handler)
    yield made
    handler.close()


def test_writers_share_a_file_that_is_turned_over(path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, name]) for name in ("a", "b")]
    assert [writer.wait(30) for writer in writers] == [0, 0]
    older = path.with_name("mount.log.1")
    kept = older.read_text() + path.read_text()
    assert 15000 < older.stat().st_size < 15200
    assert all(len(line.split()) == 3 for line in kept.splitlines()), "no line is torn"

    assert len(kept.splitlines()) == 400, "none is lost"


def test_nobody_else_can_read_it(path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "SIZE", 10)
    mask = os.umask(0)
    try:
        logger.error("the first message")
        logger.error("the second message")
    finally:
        os.umask(mask)
    assert path.with_name("mount.log.1").exists()
    logger.error("short")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_message_is_not_repeated(
    path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(log.time, "monotonic", lambda: now)
    for _ in range(5):
        logger.error("bad %s", "100%s")
        logger.error("other")
    now += log.INTERVAL_S
    logger.error("bad %s", "100%s")
    assert path.read_text().splitlines() == ["bad 100%s", "other", "bad 100%s (and 4 times before)"]


def test_another_traceback_is_another_message(path: Path, logger: logging.Logger) -> None:
    for error in (KeyError("a"), KeyError("b"), KeyError("b")):
        logger.error("a bug", exc_info=error)
    assert path.read_text().splitlines() == ["a bug", "KeyError: 'a'", "a bug", "KeyError: 'b'"]


def test_it_remembers_few_messages(path: Path, logger: logging.Logger) -> None:
    for number in [*range(log.MESSAGES + 1), 0]:
        logger.error("%d", number)
    assert len(path.read_text().splitlines()) == log.MESSAGES + 2


def test_a_log_that_cannot_be_written_stops_nobody(
    path: Path, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logger.error("before")
    path.unlink()
    path.parent.rmdir()
    logger.error("its directory is gone")
    path.parent.mkdir()
    logger.error("after")
    assert path.read_text() == "after\n"
    assert "its directory is gone" in capsys.readouterr().err


def test_what_a_full_disk_does_not_take_is_said_in_a_line(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path.symlink_to("/dev/full")
    handler = log.LogFile(path)
    logger = logging.Logger("mount")
    logger.addHandler(handler)
    for number in range(2):
        logger.error("number %d", number)
    handler.close()
    assert capsys.readouterr().err.splitlines() == [
        f"ioflt: warning: {path}: No space left on device; not logged: number {number}" for number in range(2)
    ]
