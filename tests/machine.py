"""A machine with several users and one keyd in system mode, in a mount namespace of its own.

/mnt there holds what every user can read: the interpreter and the sources, which may lie where only root can
read them. /etc/passwd and /etc/group name the users and the group `ioflt`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import ioflt
from tests import forked
from tests.conftest import SESSION_MARK

#: The group of keyd's members.
GROUP, GROUP_ID = "ioflt", 991

#: The machine's state and sockets.
HOME = Path("/mnt/ioflt")

#: `ioflt` there.
IOFLT = "/mnt/commands/ioflt"

_READY = "ready"

_SET_UP = r"""
set -eu
prefix=$1 source=$2 site=$3 group=$4
shift 4
# What other tests, and those of other workers, have mounted is not kept so here: its process would not end.
awk -v top="${TMPDIR%/*}/ioflt-" '$3 ~ /^fuse(\.|$)/ || index($2, top) == 1 { print $2 }' /proc/self/mounts |
    while read -r at; do
    umount -l "$at" || true
done
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/python /mnt/source /mnt/site /mnt/etc /mnt/home /mnt/commands
mkdir -m 711 /mnt/ioflt
mkdir -m 1777 /mnt/work
mount --bind "$prefix" /mnt/python
mount --bind "$source" /mnt/source
mount --bind "$site" /mnt/site
mknod -m 666 /mnt/fuse c 10 229
mount --bind /mnt/fuse /dev/fuse
cp /etc/passwd /etc/group /mnt/etc
echo "ioflt:x:$group:" >> /mnt/etc/group
for user; do
    name=${user%:*} number=${user#*:}
    echo "$name:x:$number:$number::/mnt/home/$name:/bin/sh" >> /mnt/etc/passwd
    echo "$name:x:$number:" >> /mnt/etc/group
    install -d -m 700 -o "$number" -g "$number" "/mnt/home/$name"
done
mount --bind /mnt/etc/passwd /etc/passwd
mount --bind /mnt/etc/group /etc/group
echo ready
exec sleep infinity
"""


@dataclass(frozen=True, slots=True)
class User:
    """One of the machine. `member`: of the group `ioflt`."""

    name: str
    number: int
    member: bool = True


ROOT = User("root", 0)


class Machine:
    """Use it in a `with`: keyd and the namespace's holder end with it."""

    def __init__(self, users: Sequence[User]) -> None:
        arguments = [
            sys.base_prefix,
            str(Path(ioflt.__file__).resolve().parents[1]),
            sysconfig.get_path("purelib"),
            str(GROUP_ID),
            *(f"{user.name}:{user.number}" for user in users),
        ]
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation=slave", "bash", "-c", _SET_UP, "bash", *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        said = self._holder.stdout.readline().strip() if self._holder.stdout else ""
        if said != _READY:
            self._holder.wait()
            raise RuntimeError("the machine did not come up")
        self._commands = forked.Server(
            self.path(Path(IOFLT).parent),
            inside=Path(IOFLT).parent,
            python=self.python(),
            prefix=self._enter,
            environment=self._environment(ROOT),
        )

    def run(self, user: User, *command: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command as that user. `$python` in it is the interpreter."""
        groups = f"--groups={GROUP_ID}" if user.member and user.number else "--clear-groups"
        become = [f"--reuid={user.number}", f"--regid={user.number}", groups]
        return subprocess.run(
            [*self._enter, "setpriv", *become, *command],
            env=self._environment(user),
            cwd="/",
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    @property
    def _enter(self) -> tuple[str, ...]:
        return "nsenter", f"--target={self._holder.pid}", "--mount"

    @staticmethod
    def _environment(user: User) -> dict[str, str]:
        home = "/mnt/home/" + user.name if user.number else "/mnt/home"
        return {
            "PATH": os.environ["PATH"],
            SESSION_MARK: os.environ[SESSION_MARK],
            "HOME": home,
            "XDG_STATE_HOME": f"{home}/state",
            "XDG_RUNTIME_DIR": home,
            "PYTHONPATH": "/mnt/source:/mnt/site",
            "LD_LIBRARY_PATH": "/mnt/python/lib",  # the interpreter may name it where only root can read it
            "IOFLT_HOME": str(HOME),
        }

    def ioflt(
        self, user: User, *arguments: str, given: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `ioflt` as that user."""
        return self.run(user, IOFLT, *arguments, given=given)

    def root(self, *arguments: str, given: str | None = None) -> str:
        """Run `ioflt` as root, which succeeds. Returns what it prints."""
        done = self.ioflt(ROOT, *arguments, given=given)
        assert done.returncode == 0, f"ioflt {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    @staticmethod
    def python() -> tuple[str, ...]:
        """The interpreter that every user of the machine can run."""
        return "/mnt/python/bin/python3", "-P"

    def path(self, inside: str | Path) -> Path:
        """Where something of the machine is seen from here."""
        return Path(f"/proc/{self._holder.pid}/root{inside}")

    def close(self) -> None:
        """End keyd, and the machine."""
        try:
            self.ioflt(ROOT, "keyd", "stop")
        finally:
            self._commands.end()
            self._holder.kill()
            self._holder.wait()
            if self._holder.stdout:
                self._holder.stdout.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
