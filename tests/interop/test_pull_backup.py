"""QEMU's pull-mode backup of a guest that writes all the time: full, then two increments.

As virtnbdbackup and its like do it: a fleecing image over the disk keeps what was there at one point in time,
a dirty bitmap says what changed since the last one, both are read over NBD. The disk lies on a mount, and so
do all images: a fleecing image holds what the disk held.
"""

from __future__ import annotations

import filecmp
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.guest import Guest
from tests.mounted.place import Place
from tests.waiting import eventually

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.qemu,
    pytest.mark.interop(
        "qemu-img", "nbdcopy", "nbdinfo", "nbdfuse", "fusermount3", "mke2fs", "e2fsck", "cmp"
    ),
    pytest.mark.slow,
]

SIZE = 128 << 20
BALLAST = 32 << 20  # more than the guest writes: 4 MiB in 16 files, and the journal, which has 4
GRANULARITY = 64 << 10
DEVICE = "virtio0"  # what qemu calls the first -drive if=virtio


def run(*arguments: object) -> str:
    done = subprocess.run([str(one) for one in arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Puller:
    """Takes points in time of the guest's disk. `images`: a home for what that makes."""

    def __init__(self, guest: Guest, disk: Path, images: Path, sockets: Path) -> None:
        self._guest, self._disk, self._images, self._sockets = guest, disk, images, sockets
        (block,) = guest.command("query-block")
        self._node = block["inserted"]["node-name"]
        self._taken = 0

    @contextmanager
    def point(self) -> Iterator[tuple[str, str | None, Path]]:
        """The URI of the disk as it is now, the bitmap of what changed since the last point, and, as the
        judge, a copy that was made while the guest stood still.
        """
        number, self._taken = self._taken, self._taken + 1
        fleece = f"fleece{number}"
        image, judge = self._images / f"{fleece}.qcow2", self._images / f"judge{number}.raw"
        run("qemu-img", "create", "-q", "-f", "qcow2", image, SIZE)
        command = self._guest.command
        file = {"driver": "file", "filename": str(image)}
        command(
            "blockdev-add", **{"driver": "qcow2", "node-name": fleece, "file": file, "backing": self._node}
        )
        since = f"since{number - 1}" if number else None
        bitmap = {"node": DEVICE, "name": f"since{number}", "granularity": GRANULARITY}
        backup = {"device": DEVICE, "target": fleece, "sync": "none", "job-id": fleece}
        actions = [("block-dirty-bitmap-add", bitmap), ("blockdev-backup", backup)]
        if since is not None:
            actions.insert(1, ("block-dirty-bitmap-disable", {"node": DEVICE, "name": since}))
        command("stop")
        run("cp", "--sparse=always", self._disk, judge)
        command("transaction", actions=[{"type": kind, "data": data} for kind, data in actions])
        command("cont")
        socket = self._sockets / fleece
        command("nbd-server-start", addr={"type": "unix", "data": {"path": str(socket)}})
        bitmaps = [] if since is None else [since]
        export = {"type": "nbd", "id": fleece, "node-name": fleece, "bitmaps": bitmaps}
        command("block-export-add", **export)
        yield f"nbd+unix:///{fleece}?socket={socket}", since, judge
        command("nbd-server-stop")
        command("block-job-cancel", device=fleece)
        eventually(lambda: not command("query-block-jobs"))
        command("blockdev-del", **{"node-name": fleece})
        if since is not None:
            command("block-dirty-bitmap-remove", node=DEVICE, name=since)
        image.unlink()


def apply_changes(uri: str, bitmap: str, copy: Path, at: Path) -> int:
    """Bring the copy of an earlier point up to that of `uri`; how many bytes that took."""
    areas = json.loads(run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{bitmap}", uri))
    dirty = [(area["offset"], area["length"]) for area in areas if area["type"] == 1]
    at.touch()
    server = subprocess.Popen(["nbdfuse", "-r", at, uri])
    try:
        eventually(lambda: at.stat().st_size == SIZE or server.poll() is not None)
        with at.open("rb", buffering=0) as source, copy.open("r+b") as target:
            for start, length in dirty:
                for offset in range(start, start + length, GRANULARITY):
                    os.pwrite(target.fileno(), os.pread(source.fileno(), GRANULARITY, offset), offset)
    finally:
        run("fusermount3", "-u", at)
        assert server.wait(60) == 0
    return sum(length for _, length in dirty)


def test_full_and_two_increments_of_a_guest_that_writes(place: Place) -> None:
    top = place.mount()
    for name in ("vm", "backup"):
        (top / name).mkdir()
    disk, copy = top / "vm" / "vm-flat.vmdk", top / "backup" / "copy.raw"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    ballast = place.base / "root"
    ballast.mkdir()
    (ballast / "ballast").write_bytes(os.urandom(BALLAST))
    run("mke2fs", "-q", "-F", "-t", "ext4", "-d", ballast, disk)
    with Guest(place.base, "guest", disk) as guest:
        guest.beats(3)
        puller = Puller(guest, disk, top / "backup", place.base)
        with puller.point() as (uri, _, judge):
            guest.beats(2)  # what the point in time is of is not there any more
            run("nbdcopy", uri, copy)
            assert filecmp.cmp(judge, copy, shallow=False)
        for _ in range(2):
            guest.beats(2)
            with puller.point() as (uri, since, judge):
                guest.beats(2)
                assert since is not None
                assert 0 < apply_changes(uri, since, copy, place.base / "disk") < BALLAST
                assert filecmp.cmp(judge, copy, shallow=False)
        guest.say("stop")
        assert guest.hear(r"guest: .*\r") == "guest: ok\r"
        assert guest.process.wait(60) == 0
    assert subprocess.run(["e2fsck", "-fp", copy], capture_output=True).returncode in (0, 1)  # its journal
    assert place.complaints() == []
