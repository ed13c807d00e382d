"""Live migration of a running guest between two mounts of one datastore, as between two hosts."""

import itertools
import subprocess

import pytest

from tests.guest import Guest
from tests.mounted.second import second_mount

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.qemu, pytest.mark.slow]

MIGRATIONS = 5


def test_a_guest_that_writes_all_the_time_survives_each_migration(place):
    top = place.mount()
    (top / "vm").mkdir()
    disk = top / "vm" / "vm-flat.vmdk"
    with disk.open("wb") as file:
        file.truncate(128 << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", disk], check=True)
    with second_mount(place) as other:
        tops = itertools.cycle((other, top))
        guest = Guest(place.base, "guest0", disk)
        try:
            beat = guest.beats(3)
            for number in range(1, MIGRATIONS + 1):
                uri = f"unix:{place.base}/migration{number}"
                target = Guest(place.base, f"guest{number}", next(tops) / "vm" / "vm-flat.vmdk", incoming=uri)
                with guest as source:
                    guest = target
                    source.command("migrate", uri=uri)
                    source.wait_status("query-migrate", "completed")
                    target.wait_status("query-status", "running")
                    source.end()
                after = target.beats(3)
                assert after > beat
                beat = after
            guest.say("stop")
            assert guest.hear(r"guest: .*\r") == "guest: ok\r"
            assert guest.process.wait(60) == 0
        finally:
            guest.__exit__()
        check = subprocess.run(["e2fsck", "-fn", disk], capture_output=True, text=True, check=False)
        assert check.returncode == 0, check.stdout + check.stderr
    assert place.complaints() == []
