"""Operations of the table × every built-in role, and none: as users of one system keyd, who try it.

Who lacks a privilege is told which; who has all of them gets it done.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ioflt.access import roles
from ioflt.access.operations import OPERATIONS
from ioflt.access.privileges import Privilege
from tests.machine import ROOT, Machine, User

#: The privileges of each user, by his name: that of his role.
HELD: dict[str, frozenset[Privilege]] = {role.id: role.privileges for role in roles.BUILT_IN} | {
    "nobody": frozenset()
}

USERS = {name: User(name, 62001 + number) for number, name in enumerate(HELD)}

DENIED = 3

#: For the scripts of root: two datastores, and VMs to bring into them, one encrypted and one clear.
SET_UP = r"""
set -eu
cd /mnt/work
umask 0
ioflt() { /mnt/python/bin/python3 -P -m ioflt "$@"; }
web() { rm -rf ds/web; ioflt vm import source ds --as web; }
plain() { rm -rf ds/plain; cp -r source ds/plain; ioflt vm register --clear ds/plain; }
slots() { web; echo secret > secret; ioflt recovery add ds/web/web-flat.vmdk --passphrase-file secret; }
mounted() { mkdir -p mnt; ioflt mount ds mnt --as "$1" --allow-other; }
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
"""

EVERYBODY = "\nchmod -R a+rwX /mnt/work\n"


@dataclass(frozen=True)
class Example:
    """`command` of a user, after `prepare` by root. `reads`: it may be done twice.

    `mount`: not a command of ioflt, but of a shell, at a mount that root made for that user.
    """

    prepare: str
    command: str
    reads: bool = False
    mount: bool = False
    #: The exit code of who may do all but read plaintext.
    without_access: int = 0

    def code(self, held: frozenset[Privilege]) -> int:
        return 0 if Privilege.ACCESS in held else self.without_access


def reads(prepare: str, command: str) -> Example:
    return Example(prepare, command, reads=True)


def in_mount(prepare: str, command: str) -> Example:
    return Example(prepare, command, mount=True)


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
    if not example.mount:
        done = machine.run(user, "bash", "-c", f"{SET_UP}ioflt {example.command}")
        return done.returncode, done.stderr
    root(machine, f"mounted {user.name}")
    try:
        done = machine.run(user, "bash", "-ec", f"cd /mnt/work/mnt; {example.command}")
        return done.returncode, done.stderr
    finally:
        root(machine, "ioflt umount mnt")


def lacking(name: str, held: frozenset[Privilege]) -> set[str]:
    return {need.privilege.value for need in OPERATIONS[name].needs if need.privilege not in held}


def departures(machine: Machine, name: str, example: Example) -> list[str]:
    """Where what users may departs from what the table says of that operation."""
    wrong = []
    ready = False
    for who in sorted(HELD, key=lambda who: not lacking(name, HELD[who])):  # first those who may not
        if not ready:
            root(machine, example.prepare)
            ready = True
        missing = lacking(name, HELD[who])
        root(machine, "")
        code, said = attempt(machine, example, USERS[who])
        ready = bool(missing) or example.reads
        told = set(re.findall(r"permission denied: ([\w.]+) on ", said))
        if not missing:
            sound = code == example.code(HELD[who])
        elif example.mount:
            sound = code != 0 and "ermission denied" in said
        else:
            sound = code == DENIED and bool(told) and told <= missing
        if not sound:
            wrong.append(f"{who}, who lacks {sorted(missing)}: {code}, {said.strip()}")
    return wrong
