"""mount(8) with our helper: the lines of README's fstab recipe, and its units under systemd-analyze.

Each test has a mount namespace of its own, in which /usr/sbin holds only the link that README asks for.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.place import Place

README = (Path(__file__).parents[2] / "README.md").read_text()

IN_NAMESPACE = r"""
set -u
mount -t tmpfs tmpfs /usr/sbin
ln -s "$HELPER" /usr/sbin/mount.ioflt
"""

Run = Callable[[str], list[str]]


def recipe(beginning: str) -> str:
    """The code block of README that begins so."""
    blocks: list[str] = re.findall(r"^```\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    (found,) = (block for block in blocks if block.startswith(beginning))
    return found


@pytest.fixture
def run(place: Place) -> Run:
    """Runs a bash script with README's fstab line, for this datastore, in $FSTAB; returns what it printed."""
    fstab = place.base / "fstab"
    line = recipe("/srv/ds")
    fstab.write_text(line.replace("/srv/ds", str(place.datastore)).replace("/mnt/ds", str(place.mountpoint)))
    helper = place.base / "mount.ioflt"
    helper.write_text(
        f"#!{sys.executable}\nimport sys\nfrom ioflt.cli.mount_helper import main\nsys.exit(main())\n"
    )
    helper.chmod(0o755)
    names = {"HELPER": helper, "FSTAB": fstab, "DS": place.datastore, "MNT": place.mountpoint}
    root = str(Path(__file__).parents[2])

    def run(script: str) -> list[str]:
        done = subprocess.run(
            ["unshare", "--mount", "--propagation=slave", "bash", "-c", IN_NAMESPACE + script],
            env={**os.environ, "PYTHONPATH": root, **{name: str(path) for name, path in names.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
            timeout=120,
        )
        return done.stdout.splitlines()

    return run


@pytest.mark.interop("systemd-analyze")
def test_the_units(tmp_path: Path) -> None:
    """systemd finds nothing to say about them, also where they stand among its own (no ordering cycle)."""
    service = recipe("[Unit]\nDescription").replace("/usr/local/bin/ioflt", "/bin/true")
    (tmp_path / "ioflt-keyd.service").write_text(service)
    (tmp_path / "mnt-ds.mount").write_text(recipe("[Unit]\nRequires"))
    command = ["systemd-analyze", "verify", "--man=no", tmp_path / "mnt-ds.mount"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.fuse
@pytest.mark.root
@pytest.mark.interop("unshare", "findmnt")
def test_the_line_in_fstab(run: Run, place: Place) -> None:
    printed = run(r"""
        mount -T "$FSTAB" "$MNT" && findmnt -rn -o SOURCE,FSTYPE "$MNT"
        mkdir "$MNT/vm" && echo content >"$MNT/vm/file"
        mount -a -T "$FSTAB"; echo "again $?"
        findmnt -rn "$MNT" | wc -l
        umount "$MNT"; echo "umount $?"
        mount -a -T "$FSTAB"; echo "all $?"
        cat "$MNT/vm/file"
        umount "$MNT"
        findmnt -rn "$MNT" || echo "not mounted"
    """)
    assert printed == [
        f"{place.datastore} fuse.ioflt",
        "again 0",
        "1",
        "umount 0",
        "all 0",
        "content",
        "not mounted",
    ]
    assert place.complaints() == []


@pytest.mark.fuse
@pytest.mark.root
@pytest.mark.interop("unshare", "findmnt")
def test_options(run: Run) -> None:
    printed = run(r"""
        mount -t ioflt -o ro,noexec,user "$DS" "$MNT" && findmnt -rn -o OPTIONS "$MNT" | cut -d, -f 1-4
        umount "$MNT"
        mount -t ioflt -o colour=blue "$DS" "$MNT"; echo "unknown $?"
        mount -f -t ioflt "$DS" "$MNT"; echo "fake $?"
        mount -t ioflt "$DS/nothing" "$MNT" 2>/dev/null; echo "none $?"
        findmnt -rn "$MNT" || echo "not mounted"
    """)
    assert printed == [
        "ro,nosuid,nodev,noexec",
        "ioflt: unknown mount option colour",
        "unknown 2",
        "fake 0",
        "none 10",
        "not mounted",
    ]
