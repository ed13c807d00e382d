"""User mode: another user than root, with nothing but fusermount3, has keys, datastore and mount of his own.

Each test has a mount namespace of its own, where /mnt holds all that such a user needs: the interpreter and
the sources may lie where only root can read them, and /dev/fuse may have a mode that udev would not give it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import ioflt
from tests.conftest import SESSION_MARK

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.interop("unshare", "setpriv")]

USER = 65534
UNABLE = 77

AS_ROOT = r"""
set -eu
prefix=$1 source=$2 site=$3 user=$4 script=$5
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/python /mnt/source /mnt/site
mount --bind "$prefix" /mnt/python
mount --bind "$source" /mnt/source
mount --bind "$site" /mnt/site
mknod -m 666 /mnt/fuse c 10 229
mount --bind /mnt/fuse /dev/fuse
install -d -m 700 -o "$user" -g "$user" /mnt/user
cd /mnt/user
exec setpriv --reuid="$user" --regid="$user" --clear-groups env -C /mnt/user bash -eu -c "$script"
"""

AS_USER = r"""
export HOME=/mnt/user XDG_STATE_HOME=/mnt/user/state XDG_RUNTIME_DIR=/mnt/user/run
export PYTHONPATH=/mnt/source:/mnt/site
mkdir run ds mnt
for python in /mnt/python/bin/python3 /usr/bin/python3; do
    if refusal=$("$python" -P -c "import ioflt.fuse.mount" 2>&1); then break; fi
    python=
done
if [[ -z $python ]]; then
    echo "no Python that user $UID can run has ioflt: ${refusal##*$'\n'}" >&2
    exit 77
fi
ioflt() { "$python" -P -m ioflt "$@"; }
mounted() { findmnt -rn -o FSTYPE /mnt/user/mnt; }
pid() { sed -n 's/.* \([0-9]*\) INFO serves .*/\1/p' state/ioflt/logs/mount.log | tail -1; }
finish() { ioflt umount mnt || fusermount3 -uz mnt || true; ioflt keyd stop || true; }
ended() { for _ in {1..200}; do [[ -d /proc/$1 ]] || return 0; sleep 0.05; done; return 1; }
trap 'finish 2>/dev/null' EXIT
ioflt datastore init ds
"""


def as_user(script: str) -> subprocess.CompletedProcess[str]:
    """Run a bash script as a user, in a home of his own with the datastore `ds` and the directory `mnt`."""
    arguments = [
        sys.base_prefix,
        str(Path(ioflt.__file__).resolve().parents[1]),
        sysconfig.get_path("purelib"),
        str(USER),
        AS_USER + script,
    ]
    kept = {name: os.environ[name] for name in ("PATH", SESSION_MARK)}
    done = subprocess.run(
        ["unshare", "--mount", "--propagation=slave", "bash", "-c", AS_ROOT, "bash", *arguments],
        env=kept,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode == UNABLE:
        pytest.skip(done.stderr.strip())
    return done


def test_datastore_mount_write_umount() -> None:
    done = as_user(r"""
        ioflt mount ds mnt
        mounted
        mkdir mnt/vm
        echo "written by user $UID" >mnt/vm/a-flat.vmdk
        printf 'displayName = "a"\n' >mnt/vm/a.vmx
        chmod 600 mnt/vm/a.vmx
        fallocate -l 4M mnt/vm/big
        mv mnt/vm/big mnt/vm/big-flat.vmdk
        ln -s a-flat.vmdk mnt/vm/link
        ioflt umount mnt
        mounted || echo "not mounted"
        ioflt mount --read-only ds mnt
        cat mnt/vm/link mnt/vm/a.vmx
        stat -c '%a %s %U' mnt/vm/a.vmx mnt/vm/big-flat.vmdk
        ioflt umount mnt
        grep -rl "written by" ds state || echo "nowhere else"
        ioflt check ds >/dev/null
        stat -c '%a %n' state/ioflt run/ioflt
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "fuse.ioflt",
        "not mounted",
        f"written by user {USER}",
        'displayName = "a"',
        "600 18 nobody",
        "644 4194304 nobody",
        "nowhere else",
        "700 state/ioflt",
        "700 run/ioflt",
    ]


@pytest.mark.parametrize("signal", ["TERM", "INT"])
def test_a_signal_leaves_nothing_mounted(signal: str) -> None:
    """fusermount3 is set-user-id: a process without new privileges could not unmount by it."""
    done = as_user(rf"""
        ioflt mount ds mnt
        mkdir mnt/vm
        echo content >mnt/vm/file
        pid=$(pid)
        kill -{signal} "$pid"
        ended "$pid"
        mounted || echo "not mounted"
        ioflt mount ds mnt
        cat mnt/vm/file
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["not mounted", "content"]


def test_what_a_killed_mount_left_is_cleaned_up() -> None:
    done = as_user(r"""
        ioflt mount ds mnt
        mkdir mnt/vm
        echo content >mnt/vm/file
        sync mnt/vm/file
        pid=$(pid)
        kill -KILL "$pid"
        ended "$pid"
        ioflt mount ds mnt
        cat mnt/vm/file
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["content"]


def test_without_a_runtime_directory() -> None:
    done = as_user(r"""
        ioflt keyd stop
        unset XDG_RUNTIME_DIR
        ioflt mount ds mnt
        mkdir mnt/vm
        stat -c '%a %n' state/ioflt/run
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["700 state/ioflt/run"]


def test_why_it_cannot_be_mounted_is_said() -> None:
    done = as_user("ioflt mount --allow-other ds mnt")
    assert done.returncode == 9
    assert "option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf" in done.stderr
