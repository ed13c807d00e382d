"""mount(8) with our helper: the line of README's fstab recipe, and its mount unit under systemd-analyze.

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

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
UNITS = ROOT / "tools" / "systemd"
FSTAB_GENERATOR = "/usr/lib/systemd/system-generators/systemd-fstab-generator"

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
    passphrase = place.base / "passphrase"  # after a backup no command reminds of it, on standard error
    passphrase.write_text("correct horse")
    passphrase.chmod(0o600)
    place.ioflt("provider", "backup", "local", place.base / "local.p12", "--passphrase-file", passphrase)
    fstab = place.base / "fstab"
    line = recipe("/srv/ds")
    fstab.write_text(line.replace("/srv/ds", str(place.datastore)).replace("/mnt/ds", str(place.mountpoint)))
    helper = place.base / "mount.ioflt"
    helper.write_text(
        f"#!{sys.executable}\nimport sys\nfrom ioflt.cli.mount_helper import main\nsys.exit(main())\n"
    )
    helper.chmod(0o755)
    names = {"HELPER": helper, "FSTAB": fstab, "DS": place.datastore, "MNT": place.mountpoint}

    def run(script: str) -> list[str]:
        done = subprocess.run(
            ["unshare", "--mount", "--propagation=slave", "bash", "-c", IN_NAMESPACE + script],
            env={**os.environ, "PYTHONPATH": str(ROOT), **{name: str(path) for name, path in names.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
            timeout=120,
        )
        return done.stdout.splitlines()

    return run


def from_fstab(units: Path) -> str:
    """The mount unit that systemd makes of README's line, put into `units`."""
    fstab = units.parent / "fstab"
    fstab.write_text(recipe("/srv/ds"))
    made = [units.parent / name for name in ("normal", "early", "late")]
    for directory in made:
        directory.mkdir()
    subprocess.run([FSTAB_GENERATOR, *made], env={**os.environ, "SYSTEMD_FSTAB": str(fstab)}, check=True)
    return (made[0] / "mnt-ds.mount").read_text()


def judged(directory: Path, mount: str) -> tuple[int, str]:
    """What systemd says to this mount unit beside those of keyd, which stand among its own."""
    units = directory / "units"
    units.mkdir(exist_ok=True)
    for unit in UNITS.iterdir():
        (units / unit.name).write_text(unit.read_text().replace("/usr/local/bin/ioflt", "/bin/true"))
    (units / "mnt-ds.mount").write_text(mount)
    command = ["systemd-analyze", "verify", "--man=no", units / "mnt-ds.mount"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.interop("systemd-analyze")
def test_the_mount_unit(tmp_path: Path) -> None:
    """Nothing to say about it; and a cycle, of which README warns, would be told."""
    mount = recipe("[Unit]\nRequires")
    assert judged(tmp_path, mount) == (0, "")
    assert "ordering cycle" in judged(tmp_path, mount.replace(",nofail", ""))[1]


@pytest.mark.interop("systemd-analyze", FSTAB_GENERATOR)
def test_the_unit_of_the_line_in_fstab(tmp_path: Path) -> None:
    """It depends on what the mount unit depends on."""
    (tmp_path / "units").mkdir()
    made = from_fstab(tmp_path / "units")
    assert judged(tmp_path, made) == (0, "")
    for depends in ("Requires", "After", "Before", "RequiresMountsFor"):
        assert named(depends, recipe("[Unit]\nRequires")) <= named(depends, made), depends


def named(depends: str, unit: str) -> set[str]:
    """The units after every `depends=` of a unit."""
    lines = re.findall(rf"^{depends}=(.*)$", unit, re.MULTILINE)
    assert lines
    return {name for line in lines for name in line.split()}


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
