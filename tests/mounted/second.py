"""A second mount of the same datastore, as another host would have it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mounted.place import Place


@contextmanager
def second_mount(place: Place, *options: str) -> Iterator[Path]:
    """Its mount point; unmounted at the end, whatever the test left open."""
    mountpoint = place.base / "mnt2"
    mountpoint.mkdir(exist_ok=True)
    place.ioflt("mount", *options, place.datastore, mountpoint)
    try:
        yield mountpoint
    finally:
        if place.ioflt("umount", mountpoint, check=False).returncode:
            subprocess.run(["umount", "-l", str(mountpoint)], capture_output=True, check=False)
