"""What a confined process can still do, tried in one. A mount as a whole: tests/mounted/test_confined.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ioflt.keys.client import KeyClient

TRY = """
import json, os, socket, subprocess, sys, threading
from pathlib import Path
from ioflt import confinement, hygiene

own, other, outwards = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "outwards"
hygiene.no_new_privileges()
lacking = confinement.confine([own], None if outwards else [other], outwards=outwards)
doors = {
    "write": lambda: (own / "new").write_text("new"),
    "rename between directories": lambda: ((own / "sub").mkdir(), (own / "new").rename(own / "sub" / "new")),
    "remove": lambda: ((own / "sub" / "new").unlink(), (own / "sub").rmdir()),
    "read": lambda: (other / "file").read_text(),
    "read elsewhere": lambda: Path("/etc/passwd").read_text(),
    "write elsewhere": lambda: (other / "file").write_text("changed"),
    "truncate elsewhere": lambda: os.truncate(other / "file", 0),
    "remove elsewhere": lambda: (other / "file").unlink(),
    "link out": lambda: os.link(other / "file", own / "linked"),
    "socket": lambda: socket.socket().close(),
    "program": lambda: subprocess.run(["/bin/true"], check=True),
}
def run():
    found = {}
    for name, door in doors.items():
        try:
            door()
            found[name] = True
        except PermissionError:
            found[name] = False
        except OSError as error:
            found[name] = error.errno != 18  # EXDEV: Landlock's no to links between directories
            if found[name]:
                raise
    return found
found = run()
later = {}
thread = threading.Thread(target=lambda: later.update(run()))
thread.start()
thread.join()
assert later == found, later
print(json.dumps([lacking, found]))
"""


def tried(tmp_path: Path, mode: str) -> dict[str, bool]:
    """Which doors are open, the same from a thread that was started afterwards."""
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    (other / "file").write_text("content")
    done = subprocess.run(
        [sys.executable, "-c", TRY, own, other, mode], stdout=subprocess.PIPE, check=True, text=True
    )
    lacking, found = json.loads(done.stdout)
    assert lacking == []
    assert (other / "file").read_text() == "content"
    return found


def test_inwards(tmp_path: Path) -> None:
    """As a mount: what is its own, and reading what it may read."""
    found = tried(tmp_path, "inwards")
    assert {name for name, is_open in found.items() if is_open} == {
        "write",
        "rename between directories",
        "remove",
        "read",
    }


def test_outwards(tmp_path: Path) -> None:
    """As keyd: it reads, connects and runs programs, but writes only what is its own."""
    found = tried(tmp_path, "outwards")
    assert {name for name, is_open in found.items() if not is_open} == {
        "write elsewhere",
        "truncate elsewhere",
        "remove elsewhere",
        "link out",
    }


def test_keyd_is_confined(ioflt_home: Path) -> None:
    with KeyClient.connect() as keys:
        pid = keys.status().pid
        status = Path(f"/proc/{pid}/status").read_text()
        keys.stop()
    assert "\nSeccomp:\t2\n" in status
    assert "\nNoNewPrivs:\t1\n" in status


READ_PARENT = """
import os, sys
from pathlib import Path
from ioflt import confinement, hygiene

hygiene.no_new_privileges()
if sys.argv[1] == "confined":
    confinement.confine([Path("/")], None, outwards=True)  # as the process with an HSM's library does
elif sys.argv[1] == "parent":
    confinement.confine([Path("/tmp")], None, outwards=True)
    sys.exit(os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", sys.argv[3], sys.argv[2], "", ""))
open(f"/proc/{os.getppid()}/mem").close()
"""


@pytest.mark.root
@pytest.mark.parametrize(("child", "refused"), [("confined", True), ("as its parent", False)])
def test_what_keyd_starts_reads_its_memory_only_while_it_is_in_the_same_domain(
    child: str, refused: bool
) -> None:
    command = [sys.executable, "-c", READ_PARENT, "parent", child, READ_PARENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == refused, done.stderr
    assert ("PermissionError" in done.stderr) == refused
