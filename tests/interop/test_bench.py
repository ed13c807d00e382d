"""The bench in miniature: it measures beside other file systems, and leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.waiting import eventually

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.interop("fio", "gocryptfs", "qemu-img")]

ROOT = Path(__file__).parents[2]
TINY = ("--rounds=1", "--mib=4", "--seconds=0.1", "--names=20", "--places=ioflt,clear,bare,gocryptfs")
PLACES = ("ioflt", "clear", "bare", "gocryptfs")


def command(directory: Path, *words: str) -> list[str | Path]:
    return [sys.executable, ROOT / "tools" / "bench.py", f"--directory={directory}", *TINY, *words]


def mounts_below(directory: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if line.split()[4].startswith(f"{directory}/")]


def test_each_place_has_a_figure(short_tmp: Path) -> None:
    figures, history = short_tmp / "figures.json", short_tmp / "history.jsonl"
    page = short_tmp / "page.md"
    page.write_text("Above\n\n<!-- bench -->\nof old\n<!-- /bench -->\n\nBelow\n")
    files = (f"--json={figures}", f"--history={history}", f"--markdown={page}")
    words = (*files, "read-1m-buffered", "create", "help")
    done = subprocess.run(command(short_tmp, *words), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row["row"]: row for row in json.loads(figures.read_text())["rows"]}
    assert all(set(row) == {"row", "unit", *PLACES} for row in rows.values())
    assert {name: row["unit"] for name, row in rows.items()} == {
        "read-1m-buffered": "MiB/s",
        "read-1m-buffered-cpu": "s/GiB",
        "create": "files/s",
        "help": "ms",
    }
    for name in ("read-1m-buffered", "read-1m-buffered-cpu", "create"):
        assert all(rows[name][place] > 0 for place in PLACES)
    assert rows["help"]["ioflt"] > 0
    assert [rows["help"][place] for place in PLACES[1:]] == [None] * 3
    (line,) = history.read_text().splitlines()
    remembered = json.loads(line)
    assert remembered["medians"]["create"] == {place: rows["create"][place] for place in PLACES}
    assert {"date", "commit", "machine", "versions", "extent"} <= set(remembered)
    head = "| row | ioflt | clear | bare | gocryptfs | ÷ gocryptfs | ÷ bare |\n| --- | --: |"
    assert page.read_text().startswith("Above\n\n<!-- bench -->\n\n20")
    assert head in page.read_text()
    assert page.read_text().endswith("\n\n<!-- /bench -->\n\nBelow\n")
    assert "of old" not in page.read_text()
    assert {path.name for path in short_tmp.iterdir()} == {"figures.json", "history.jsonl", "page.md"}
    assert mounts_below(short_tmp) == []


def started_below(directory: Path) -> list[str]:
    """What runs with a home of ours there, keyd too."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with suppress(OSError):  # gone meanwhile, or none of ours
                if f"IOFLT_HOME={directory}/".encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text())
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ended_again_and_again_it_leaves_nothing(short_tmp: Path, number: signal.Signals) -> None:
    words = ("--rounds=1000", "read-1m-direct")  # in the middle of which it is
    process = subprocess.Popen(
        command(short_tmp, *words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, process_group=0
    )
    eventually(lambda: len(mounts_below(short_tmp)) == 3)

    def ended() -> bool:
        os.killpg(process.pid, number)  # again and again: at each step of what is cleaned up
        return process.poll() is not None

    eventually(ended)
    process.communicate()
    assert process.returncode == 128 + number
    assert started_below(short_tmp) == []
    assert list(short_tmp.iterdir()) == []
    assert mounts_below(short_tmp) == []


def test_ended_while_a_mount_begins_it_leaves_nothing(short_tmp: Path) -> None:
    process = subprocess.Popen(
        command(short_tmp, "--rounds=1000", "--places=ioflt", "read-1m-direct"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    eventually(lambda: any("\0ioflt.fuse\0" in words for words in started_below(short_tmp)))
    process.terminate()
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert started_below(short_tmp) == []
    assert list(short_tmp.iterdir()) == []


def test_what_cannot_be_written_is_said_first(short_tmp: Path) -> None:
    words = (f"--json={short_tmp}/none/figures.json", "help")
    done = subprocess.run(command(short_tmp, *words), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"bench: not a directory: {short_tmp}/none\n")
    (page := short_tmp / "page.md").write_text("No table here.\n")
    words = (f"--markdown={page}", "help")
    done = subprocess.run(command(short_tmp, *words), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        f"bench: {page}: no place for a table, which goes between lines <!-- bench --> and <!-- /bench -->\n",
    )


@pytest.mark.parametrize("words", ["--rounds=0", "--mib=0", "--names=-1", "--seconds=nan", "--vms=many"])
def test_nothing_is_no_measurement(short_tmp: Path, words: str) -> None:
    done = subprocess.run(command(short_tmp, words, "help"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"argument {words.partition('=')[0]}: " in done.stderr


def test_what_is_not_installed_is_named(short_tmp: Path) -> None:
    environment = {**os.environ, "PATH": str(short_tmp)}
    done = subprocess.run(
        command(short_tmp, "help"), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        "bench: not installed: fio, gocryptfs, qemu-img, qemu-storage-daemon; "
        "as root, tools/setup.sh build bench installs them\n"
    )


def test_the_bare_pass_through_is_read_ahead_as_ours(short_tmp: Path) -> None:
    words = ("--rounds=1000", "--places=ioflt,bare", "read-1m-direct")
    process = subprocess.Popen(command(short_tmp, *words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        eventually(lambda: [read_ahead_kib(line) for line in mounts_below(short_tmp)] == [2048, 2048])
    finally:
        process.terminate()
        process.communicate()


def read_ahead_kib(mount: str) -> int:
    return int(Path(f"/sys/class/bdi/{mount.split()[2]}/read_ahead_kb").read_text())


def test_the_bare_pass_through_is_a_file_system(short_tmp: Path) -> None:
    """What it is measured for, it does right."""
    store, mountpoint = short_tmp / "store", short_tmp / "mnt"
    store.mkdir()
    mountpoint.mkdir()
    process = subprocess.Popen([sys.executable, ROOT / "tools" / "bare_mount.py", store, mountpoint])
    eventually(mountpoint.is_mount)
    try:
        (mountpoint / "vm").mkdir(0o750)
        file = mountpoint / "vm" / "disk"
        data = os.urandom((3 << 20) + 77)
        file.write_bytes(data)
        assert file.read_bytes() == (store / "vm" / "disk").read_bytes() == data
        with file.open("ab") as appended:
            appended.write(b"more")
        os.truncate(file, 100)
        file.chmod(0o640)
        os.utime(file, ns=(1, 2))
        assert (store / "vm" / "disk").read_bytes() == data[:100]
        ours, theirs = file.stat(), (store / "vm" / "disk").stat()
        for field in ("st_size", "st_mode", "st_mtime_ns", "st_ino", "st_nlink"):
            assert getattr(ours, field) == getattr(theirs, field)
        assert os.listdir(mountpoint / "vm") == ["disk"]
        file.unlink()
        (mountpoint / "vm").rmdir()
        with pytest.raises(FileNotFoundError):
            file.stat()
        assert list(store.iterdir()) == []
    finally:
        subprocess.run(["umount", mountpoint], check=True)
        assert process.wait() == 0
