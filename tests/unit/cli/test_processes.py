"""What processes are that use keys, as they say themselves."""

import os
import subprocess
import sys

from ioflt.cli.processes import Process, process


def told(*arguments):
    """What is said of a process with that command line, which waits until it is seen."""
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as started:
        started.stdout.readline()
        found = process(started.pid, 1000)
        started.communicate(b"\n")
    return found


def test_a_mount():
    found = told("-m", "ioflt.fuse", "/srv/ds", "/mnt/ds", "--ready-fd=5")
    assert (found.uid, found.mountpoint, found.command) == (1000, "/mnt/ds", None)
    assert str(found) == f"mount /mnt/ds (pid {found.pid}, uid 1000)"


def test_others():
    for arguments in ((), ("-m", "ioflt.keyd"), ("-m", "ioflt.fuse"), ("ioflt.fuse", "-m", "a", "b")):
        found = told(*arguments)
        assert found.mountpoint is None
        assert found.command.startswith("python")


def test_names_that_are_no_text():
    assert told("-m", "ioflt.fuse", "/srv", b"/mnt/\xff").mountpoint == os.fsdecode(b"/mnt/\xff")


def test_one_that_has_ended():
    gone = Process(2**22 + 1, 0, None, None)  # above the largest pid
    assert process(gone.pid, 0) == gone
    assert str(gone) == f"? (pid {gone.pid}, uid 0)"
