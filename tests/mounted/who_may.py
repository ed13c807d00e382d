"""Operations of the table × every built-in role, and none: as users of one system keyd, who try it.

Who lacks a privilege is told which and on what, and nothing is other than before; who has all of them gets it
done.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ioflt.access import roles
from ioflt.access.operations import OPERATIONS, On
from ioflt.access.privileges import Privilege
from tests.machine import ROOT, Machine, User

#: The privileges of each user, by his name: that of his role.
HELD: dict[str, frozenset[Privilege]] = {role.id: role.privileges for role in roles.BUILT_IN} | {
    "roleless": frozenset()
}

USERS = {name: User(name, 62001 + number) for number, name in enumerate(HELD)}

DENIED = 3

#: A VM by its name, or the datastore that it is in or comes to.
OBJECT = r"web|plain|new|copy|(/mnt/work/)?(ds|other|clear|new)"

#: How what a privilege is asked for on is called; examples grant on everything.
CALLED = {on: OBJECT for on in On} | {
    On.EVERYTHING: "everything",
    On.FOLDER: "folder:told",
    On.OBJECT: "everything",
}

#: Each user's mounts, DATASTORE-USER, where a test has made them.
MOUNTS = "/mnt/mounts"

#: Where what commands change is, beside where keyd notes what it saw.
CHANGED = (
    "work",
    *(f"ioflt/state/{name}" for name in ("access.json", "policies.json", "events.json")),
    *(f"ioflt/state/{name}" for name in ("removed-keys", "key-holders", "providers")),
)

#: For the scripts of root: two datastores, and VMs to bring into them, one encrypted and one clear.
SET_UP = r"""
set -eu
cd /mnt/work
umask 0
PATH=/mnt/commands:$PATH
web() { rm -rf ds/web; ioflt vm import source ds --as web; }
plain() { rm -rf ds/plain; cp -r source ds/plain; ioflt vm register --clear ds/plain; }
thin() {
    rm -rf thin ds/web; cp -r source thin; truncate -s 0 thin/web-flat.vmdk; truncate -s 1M thin/web-flat.vmdk
    ioflt vm import thin ds --as web
}
slots() { web; echo secret > secret; ioflt recovery add ds/web/web-flat.vmdk --passphrase-file secret; }
everybody() {
    awk -F: '$6 ~ "^/mnt/home/" { print $1, $3 }' /etc/passwd | while read -r name number; do
        HOME=/mnt/home/$name XDG_STATE_HOME=/mnt/home/$name/state XDG_RUNTIME_DIR=/mnt/home/$name \
            setpriv --reuid="$number" --regid="$number" --groups=991 \
            ioflt "$@" < /dev/null
    done
}
key_of() { ioflt key list "$1" | grep "^local:" | head -n1; }
"""

BEGIN = r"""
mkdir source out ds other clear
ioflt datastore init ds
echo secret > secret
ioflt provider backup local keys.p12 --passphrase-file secret
ioflt datastore init other
ioflt datastore init --clear clear
printf 'config.version = "8"\ndisplayName = "web"\nscsi0:0.fileName = "web.vmdk"\n' > source/web.vmx
printf '%s\n' '# Disk DescriptorFile' version=1 CID=12345678 parentCID=ffffffff 'createType="vmfs"' \
    'RW 2048 VMFS "web-flat.vmdk"' > source/web.vmdk
head -c 1048576 /dev/urandom > source/web-flat.vmdk
for each in /mnt/home/*; do
    echo s.token > $each/token
    chmod 600 $each/token
    chown --reference=$each $each/token
done
"""

EVERYBODY = "\nchmod -R a+rwX /mnt/work\n"


@dataclass(frozen=True)
class Example:
    """`command` of a user, after `prepare` by root. `reads`: it may be done twice, and changes no file."""

    prepare: str
    command: str
    reads: bool = False
    #: Whether what it changes is in files, not in keyd alone.
    in_files: bool = True
    #: The exit code of who may.
    done: int = 0
    #: The exit code of who may do all but read plaintext.
    without_access: int = 0
    #: What who may not is told, with which exit code, where that is not which privilege he lacks.
    refused: tuple[int, str] | None = None
    #: Not a command of ioflt, but of a shell, in the mount of that datastore which is that user's.
    mount: str = ""

    @property
    def changes_files(self) -> bool:
        return self.in_files and not self.reads

    def code(self, held: frozenset[Privilege]) -> int:
        return self.done if Privilege.ACCESS in held else self.without_access or self.done


def reads(prepare: str, command: str, **further: Any) -> Example:
    return Example(prepare, command, reads=True, **further)


def in_mount(prepare: str, command: str, *, reads: bool = False, of: str = "ds") -> Example:
    return Example(prepare, command, reads=reads, mount=of)


@contextmanager
def populated() -> Iterator[Machine]:
    """A machine with these users and datastores."""
    with Machine(list(USERS.values())) as found:
        root(found, BEGIN)
        for role in roles.BUILT_IN:
            found.root("permission", "grant", f"user:{role.id}", role.id, "everything")
        yield found
        found.ioflt(ROOT, "keyd", "unlock")


def root(machine: Machine, script: str) -> None:
    done = machine.run(ROOT, "bash", "-c", SET_UP + script + EVERYBODY)
    assert done.returncode == 0, f"{script}\n{done.stderr}"


def attempt(machine: Machine, example: Example, user: User) -> tuple[int, str]:
    script = f"{SET_UP}ioflt {example.command}"
    if example.mount:
        # The kernel believes for a second what a mount said before root changed it behind the mount.
        Path("/proc/sys/vm/drop_caches").write_text("2")
        script = f"set -e; cd {MOUNTS}/{example.mount}-{user.name}; {example.command}"
    done = machine.run(user, "bash", "-c", script)
    return done.returncode, done.stdout + done.stderr


def lacking(name: str, held: frozenset[Privilege]) -> set[str]:
    return {need.privilege.value for need in OPERATIONS[name].needs if need.privilege not in held}


def may(name: str, who: str) -> bool:
    return not OPERATIONS[name].by_root and not lacking(name, HELD[who])


def there(machine: Machine) -> dict[str, bytes]:
    """What of the machine commands change: files by their paths, as digests."""
    found = {}
    for top in CHANGED:
        start = machine.path(f"/mnt/{top}")
        if start.is_file():
            found[top] = hashlib.sha256(start.read_bytes()).digest()
        for directory, _, files in os.walk(start):
            if (
                os.path.basename(directory) != ".ioflt.d"
            ):  # where commands work, and look for what is unfinished
                found[directory] = b""
            for path in (os.path.join(directory, file) for file in files):
                if os.path.isfile(path):
                    with open(path, "rb") as file:
                        found[path] = hashlib.file_digest(file, "sha256").digest()
    return found


def names_what_is_lacking(name: str, who: str, said: str) -> bool:
    """Whether each denial is of a privilege that he lacks, on what the table says."""
    told = re.findall(r"permission denied: ([\w.]+) on (\S+)", said)
    asked = [need for need in OPERATIONS[name].needs if need.privilege not in HELD[who]]
    return bool(told) and all(
        any(need.privilege == privilege and re.fullmatch(CALLED[need.on], on.rstrip(";:,")) for need in asked)
        for privilege, on in told
    )


def departures(machine: Machine, name: str, example: Example) -> list[str]:
    """Where what users may departs from what the table says of that operation."""
    wrong = []
    ready = False
    for who in sorted(HELD, key=lambda who: may(name, who)):  # first those who may not
        if not ready:
            root(machine, example.prepare)
            ready = True
        allowed = may(name, who)
        ready = not allowed or example.reads
        root(machine, "")
        before = there(machine)
        code, said = attempt(machine, example, USERS[who])
        changed = {path for path, _ in before.items() ^ there(machine).items()}
        if allowed:
            sound = code == example.code(HELD[who]) and bool(changed) == example.changes_files
        elif example.refused is not None:
            sound = (code, example.refused[1] in said) == (example.refused[0], True) and not changed
        elif example.mount:
            sound = code != 0 and "ermission denied" in said and not changed
        else:
            sound = code == DENIED and names_what_is_lacking(name, who, said) and not changed
        if not sound:
            lacks = sorted(lacking(name, HELD[who]))
            wrong.append(f"{who}, who lacks {lacks}: {code}, {said.strip()}; changed: {sorted(changed)}")
    return wrong
