"""Every operation of the table × every built-in role, as five users of one system keyd: what the table says.

Who lacks a privilege is told which; who has all of them gets it done.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from ioflt.access import roles
from ioflt.access.operations import OPERATIONS
from ioflt.access.privileges import Privilege
from ioflt.access.roles import Role
from tests.machine import ROOT, Machine, User

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.interop("unshare", "setpriv", "nsenter")]

USERS = {role.id: User(role.id, 62001 + number) for number, role in enumerate(roles.BUILT_IN)}

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

    def code(self, role: Role) -> int:
        return 0 if Privilege.ACCESS in role.privileges else self.without_access


def reads(prepare: str, command: str) -> Example:
    return Example(prepare, command, reads=True)


def in_mount(prepare: str, command: str) -> Example:
    return Example(prepare, command, mount=True)


EXAMPLES = {
    "datastore init": Example("rm -rf new; mkdir new", "datastore init new"),
    "datastore recrypt": Example("", "datastore recrypt other"),
    "datastore show": reads("", "datastore show ds"),
    "inspect": reads("web", "inspect ds/web/web.vmdk"),
    "check": Example("web", "check ds", reads=True, without_access=13),
    "vm list": reads("web", "vm list ds"),
    "vm show": reads("web", "vm show ds/web"),
    "vm encrypt": Example("plain", "vm encrypt ds/plain"),
    "vm decrypt": Example("web", "vm decrypt ds/web"),
    "vm recrypt": Example("web", "vm recrypt ds/web"),
    "vm recrypt: --deep": Example("web", "vm recrypt --deep ds/web"),
    "vm register: --clear": Example("rm -rf ds/plain; cp -r source ds/plain", "vm register --clear ds/plain"),
    "vm register": Example("web; cp ds/web/.ioflt r; rm ds/web/.ioflt", "vm register ds/web"),
    "vm clone": Example("web; rm -rf ds/copy", "vm clone ds/web ds/copy"),
    "vm clone: a clear VM": Example("plain; rm -rf clear/copy", "vm clone ds/plain clear/copy"),
    "vm move": Example("web; rm -rf other/web", "vm move ds/web other/web"),
    "vm move: rename": Example("web; rm -rf ds/new", "vm move ds/web ds/new"),
    "vm import": Example("rm -rf ds/new", "vm import source ds --as new"),
    "vm export": Example("web; rm -rf out/web", "vm export ds/web out/web"),
    "vm export: a clear VM": Example("plain; rm -rf out/plain", "vm export ds/plain out/plain"),
    "vm erase": Example("web", "vm erase ds/web --yes"),
    "disk extend": Example("web", "disk extend ds/web/web.vmdk 2M"),
    "disk extend: a clear VM": Example("plain", "disk extend ds/plain/web.vmdk 2M"),
    "policy list": reads("", "policy list"),
    "policy show": reads("", "policy show 'VM Encryption Policy'"),
    "policy check": reads("web", "policy check ds"),
    "policy create": Example("ioflt policy remove mine || true", "policy create mine --clear"),
    "policy create: one that encrypts": Example(
        "ioflt policy remove mine || true", "policy create mine --encrypt"
    ),
    "policy remove": Example("ioflt policy create mine --clear || true", "policy remove mine"),
    "policy assign: encrypt": Example("plain", "policy assign 'VM Encryption Policy' ds/plain"),
    "policy assign: decrypt": Example("web", "policy assign 'Datastore Default' ds/web"),
    "key list": reads("web", "key list ds"),
    "key drill": reads("web", "key drill"),
    "attest": reads("rm -f out/*.report", "attest ds --out out/$$.report"),
    "events": reads("", "events"),
    "events verify": reads("", "events verify"),
    "keyd status": reads("", "keyd status"),
    "keyd lock": Example("ioflt keyd unlock", "keyd lock"),
    "keyd unlock": Example("ioflt keyd lock", "keyd unlock"),
    "recovery add": Example(
        "web; echo secret > secret", "recovery add ds/web/web.vmdk --passphrase-file secret"
    ),
    "recovery fill": Example("web", "recovery fill ds/web/web-flat.vmdk"),
    "recovery remove": Example("slots", "recovery remove ds/web/web-flat.vmdk --all"),
    "header backup": Example("web; rm -f out/headers", "header backup ds/web out/headers"),
    "vmx export": Example(
        "web; rm -f out/vmx; echo secret > secret", "vmx export ds/web -o out/vmx --passphrase-file secret"
    ),
    "mount: list, stat": in_mount("web", "ls -l web"),
    "mount: read or write": in_mount("web", "sha256sum web/web-flat.vmdk"),
    "mount: save a VMX": in_mount("web", "echo 'numvcpus = \"2\"' >> web/web.vmx"),
    "mount: add a file": in_mount("web", "echo 1 > web/new"),
    "mount: make an encrypted VM": in_mount("rm -rf ds/fresh", "mkdir fresh && echo 1 > fresh/new"),
    "mount: rename, link or remove in a VM": in_mount(
        "web", "mv web/web.vmdk web/old.vmdk && rm web/old.vmdk"
    ),
    "mount: remove a VM": in_mount("web", "rm -r web"),
}


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine(list(USERS.values())) as found:
        root(found, BEGIN)
        for role, user in USERS.items():
            found.root("permission", "grant", f"user:{user.name}", role, "everything")
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


def lacking(name: str, role: Role) -> set[str]:
    return {need.privilege.value for need in OPERATIONS[name].needs} - {
        each.value for each in role.privileges
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_who_may_is_as_the_table_says(machine: Machine, name: str) -> None:
    example = EXAMPLES[name]
    wrong = []
    ready = False
    for role in sorted(roles.BUILT_IN, key=lambda role: not lacking(name, role)):  # first those who may not
        if not ready:
            root(machine, example.prepare)
            ready = True
        missing = lacking(name, role)
        root(machine, "")
        code, said = attempt(machine, example, USERS[role.id])
        ready = bool(missing) or example.reads
        told = set(re.findall(r"permission denied: ([\w.]+) on ", said))
        if not missing:
            sound = code == example.code(role)
        elif example.mount:
            sound = code != 0 and "ermission denied" in said
        else:
            sound = code == DENIED and bool(told) and told <= missing
        if not sound:
            wrong.append(f"{role.id}, who lacks {sorted(missing)}: {code}, {said.strip()}")
    assert not wrong, "\n".join(wrong)
