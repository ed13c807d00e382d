"""Root's export of a disk for a user of the machine: the server is his process, and nobody else gets in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from tests.machine import ROOT, Machine, User

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.root,
    pytest.mark.interop("unshare", "setpriv", "nsenter", "qemu-img", "qemu-nbd", "nbdcopy"),
]

ALICE, BOB = User("alice", 61001), User("bob", 61002)

SCRIPT = r"""
set -eu
cd /mnt/work
ioflt() { /mnt/python/bin/python3 -P -m ioflt "$@"; }
as() { setpriv --reuid=$1 --regid=$1 --groups=991 "${@:2}"; }
umask 022
ioflt datastore init ds
mkdir -p at
ioflt mount ds at
mkdir at/web
head -c 1M /dev/urandom > at/web/disk.raw
head -c 1M /dev/urandom > at/web/secret.raw
chmod 600 at/web/secret.raw
sha256sum < at/web/disk.raw
ioflt umount at
ioflt permission grant alice backup-operator ds/web
mkfifo said
/mnt/python/bin/python3 -P -m ioflt backup export ds/web disk.raw --for alice --json > said &
export=$!
read -r line < said
uri=$(/mnt/python/bin/python3 -c 'import json, sys; print(json.loads(sys.argv[1])["uri"])' "$line")
as 61001 nbdcopy "$uri" - | sha256sum
ps -o user:20= --ppid $export | sort | uniq
as 61002 nbdcopy "$uri" - > bob 2>&1 && exit 1
kill $export
wait $export
ioflt backup export ds/web secret.raw --for alice --json 2>&1 | grep -o 'may not read the disk'
ioflt backup export ds/web disk.raw --for bob --json 2>&1 | grep -o 'Cryptographer.Access on web'
"""


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine([ALICE, BOB]) as found:
        yield found


def test_an_export_for_a_user_is_his(machine: Machine) -> None:
    done = machine.run(ROOT, "bash", "-c", SCRIPT)
    assert done.returncode == 0, done.stderr
    written, read, *rest = done.stdout.splitlines()
    assert written == read != hashlib.sha256().hexdigest()
    assert rest == ["alice", "root", "may not read the disk", "Cryptographer.Access on web"]
