"""What an attacker gets who took over keyd by a message: to change what is keyd's, and not to be reached.

keyd itself reads files that providers name, connects to key servers, and runs programs that open providers:
so does who took it over (SECURITY.md). A program that it runs gets no further.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ioflt.keys import starter
from ioflt.keys.client import KeyClient
from tests import doors

PROGRAM = Path(__file__).with_name("exploited.py")

pytestmark = pytest.mark.root  # others would find some of these doors shut anyway


@pytest.fixture
def taken_over(where, monkeypatch):
    """Has keyd, started with these options, try doors. Returns what each answered."""

    def tried(asked, *options):
        program = (sys.executable, "-P", str(PROGRAM), *options)
        root = str(PROGRAM.parents[3])
        monkeypatch.setattr(starter, "_KEYD", program)
        monkeypatch.setenv("PYTHONPATH", root)
        doors.plan(where.state, asked)
        with KeyClient.connect() as keys:
            assert keys.status().state == "open", "it serves on"
        return doors.found(where.state, asked)

    return tried


@pytest.fixture
def outside():
    """Every way to change something outside, or to be reached from there; something real is behind each."""
    base = Path(tempfile.mkdtemp(prefix="ioflt-", dir="/var/tmp"))  # keyd's programs may write below /tmp
    for name in ("secret", "removed"):
        (base / name).write_text("content")
    (base / "point").mkdir()
    abstract = f"@ioflt-{os.getpid()}"
    with (
        socket.socket(socket.AF_UNIX) as listener,
        subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as other,
    ):
        listener.bind(abstract.replace("@", "\0"))
        listener.listen()
        yield [
            ("write", str(base / "secret")),
            ("write", str(base / "new")),
            ("write by a program", str(base / "secret")),
            ("remove", str(base / "removed")),
            ("make a device in", "/tmp"),
            ("mount", str(base / "point")),
            ("have mounts of its own", None),
            ("connect", abstract),
            ("serve", "AF_INET"),
            ("serve", "AF_UNIX"),
            ("send a signal", other.pid),
            ("read", f"/proc/{other.pid}/mem"),
            ("replace", str(base / "replaced")),
        ]
    subprocess.run(["umount", "-q", base / "point"], check=False)
    shutil.rmtree(base)


def test_keyd_that_is_taken_over_changes_nothing_that_is_not_its_own(taken_over, outside):
    found = taken_over(outside)
    assert {door: answer for door, answer in found.items() if answer == "open"} == {}
    by_program = [answer for door, answer in found.items() if door.startswith("write by")]
    assert all("PermissionError" in answer for answer in found.values() if answer not in by_program), found


def test_without_confinement_all_these_doors_are_open(taken_over, outside):
    found = taken_over(outside, "--unconfined")
    assert {door: answer for door, answer in found.items() if answer != "open"} == {}
