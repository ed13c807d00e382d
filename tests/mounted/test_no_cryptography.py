"""A No cryptography administrator: handles VMs as ciphertext, and reads no plaintext by any door."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine import ROOT, Machine, User
from tests.mounted.who_may import DENIED, MOUNTS, SET_UP, USERS, populated, root

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.interop("unshare", "setpriv", "nsenter")]

ADMIN, READER = USERS["no-crypto-admin"], USERS["administrator"]

CANARY = "IOFLT-CANARY-5d20-is-for-who-has-Access"
FORMS = [
    CANARY.encode(),
    CANARY.encode("utf-16-le"),
    *(b64encode(bytes(n) + CANARY.encode())[4:-4] for n in range(3)),
]

MOUNT = f"{MOUNTS}/ds"

VM = """
rm -rf ds/web ds/new ds/raw out/*
ioflt vm import bird ds --as web
ioflt recovery add ds/web --passphrase-file roots
"""

BEGIN = rf"""
cp -r source bird
echo 'annotation = "{CANARY}"' >> bird/web.vmx
echo '# {CANARY}' >> bird/web.vmdk
(yes '{CANARY}' || true) | head -c 1048576 > bird/web-flat.vmdk
yes '{CANARY}' | head -n 9 > bird/vmware.log
echo roots > roots
{VM}
mkdir -p {MOUNT}
ioflt mount ds {MOUNT} --as {ADMIN.name}
"""

#: Ways to the plaintext of ds/web, and to keys.
DOORS = {
    "mount": f"cat {MOUNT}/web/* > out/got",
    "a copy made through the mount": f"cp -r {MOUNT}/web {MOUNT}/new",
    "another name in the mount": f"mv {MOUNT}/web/web.vmx {MOUNT}/web/new.txt && cat {MOUNT}/web/new.txt",
    "export": "ioflt vm export ds/web out/vm",
    "clone to clear": "ioflt vm clone ds/web clear/got --policy 'Datastore Default'",
    "clone": "ioflt vm clone ds/web ds/new",
    "decrypt": "ioflt vm decrypt ds/web",
    "a clear policy": "ioflt policy assign 'Datastore Default' ds/web",
    "move to a clear datastore": "ioflt vm move ds/web clear/got",
    "recovery slot": "ioflt recovery add ds/web/web-flat.vmdk --passphrase-file secret",
    "fill": "ioflt recovery fill ds/web/web-flat.vmdk",
    "headers": "ioflt header backup ds/web out/headers",
    "VMX": "ioflt vmx export ds/web -o out/vmx --passphrase-file secret",
    "another key": "ioflt vm recrypt ds/web",
    "other data keys": "ioflt vm recrypt ds/web --deep",
    "provider's key": "ioflt provider backup local out/key --passphrase-file secret",
    "events": "ioflt events",
    "report": "ioflt attest ds --out out/report",
    "a role with more": f"ioflt permission grant {ADMIN.name} administrator everything",
    "logs": "cat /mnt/ioflt/state/logs/*.log",
    "providers' files": "cat /mnt/ioflt/state/providers/*",
}

#: What he does with ciphertext, and with what everybody sees.
DOES = {
    "list": f"ls -lR {MOUNT}; ioflt vm list ds; ioflt vm show ds/web; ioflt inspect ds/web/web-flat.vmdk",
    "key list": "ioflt key list ds; ioflt key drill; ioflt keyd status; ioflt health ds || true",
    "copy": "cp -r ds/web out/raw; cp -r ds/web ds/raw; ls ds/raw",
    "rename": f"ioflt vm move ds/web ds/new; mv {MOUNT}/new {MOUNT}/web",
    "move": "mv ds/raw out/moved; ls out/moved",
    "delete": "rm -r out/moved; ioflt vm erase ds/web --yes",
}


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with populated() as found:
        root(found, BEGIN)
        found.run(ROOT, "chmod", "-R", "go-rwx", "/mnt/work/bird", "/mnt/work/roots")
        yield found
        root(found, f"ioflt umount {MOUNT}")


def tries(machine: Machine, script: str, user: User = ADMIN) -> tuple[int, str]:
    done = machine.run(user, "bash", "-c", f"{SET_UP}{script}")
    return done.returncode, done.stdout + done.stderr


def cages(machine: Machine) -> list[Path]:
    """Files that hold the canary, but for those from which the VM was made."""
    tops = [machine.path(f"/mnt/{top}") for top in ("work", "home", "ioflt")]
    files = [path for top in tops for path in top.rglob("*") if path.is_file()]
    return [path for path in files if "bird" not in path.parts and holds(path.read_bytes())]


def holds(content: bytes) -> bool:
    return any(form in content for form in FORMS)


@pytest.mark.parametrize("door", DOORS)
def test_reads_no_plaintext_by(machine: Machine, door: str) -> None:
    code, said = tries(machine, DOORS[door])
    assert code != 0, said
    assert "ermission denied" in said
    if DOORS[door].startswith("ioflt"):
        assert code == DENIED, said
    assert not holds(said.encode())
    assert cages(machine) == []


def test_gets_no_data_key_of_keyd_whatever_operation_he_says_that_it_is_for(machine: Machine) -> None:
    peek = (*machine.python(), "/mnt/source/tests/mounted/peeker.py", "/mnt/work/ds", "web")
    tried = machine.run(ADMIN, *peek)
    assert (tried.returncode, tried.stdout) == (0, "[]\n"), tried.stderr
    assert "vm export" in json.loads(machine.run(READER, *peek).stdout)


def test_gets_at_no_process_that_has_keys_and_at_no_control_socket(machine: Machine) -> None:
    keyd = json.loads(machine.root("keyd", "status", "--json"))["pid"]
    log = machine.path("/mnt/ioflt/state/logs/mount.log").read_text()
    mount = next(line for line in reversed(log.splitlines()) if "INFO serves" in line).split()[2]
    (control,) = machine.path("/mnt/ioflt/run/mounts").glob("*.sock")
    places = ["/mnt/ioflt/run", "/mnt/ioflt/state", f"/mnt/ioflt/run/mounts/{control.name}"]
    attack = [*machine.python(), "/mnt/source/tests/mounted/outsider.py", str(keyd), mount, *places]
    tried = machine.run(ADMIN, *attack)
    assert json.loads(tried.stdout) == {"keyd": [], "mount": [], "files": []}, tried.stderr


@pytest.mark.parametrize("what", DOES)
def test_does(machine: Machine, what: str) -> None:
    if what == "list":
        root(machine, VM)
    code, said = tries(machine, DOES[what])
    assert code == 0, said
    assert not holds(said.encode())
    assert cages(machine) == []


def test_what_is_searched_for_can_be_found(machine: Machine) -> None:
    root(machine, VM)
    code, said = tries(machine, "ioflt vm export ds/web out/vm", READER)
    assert code == 0, said
    assert {path.name for path in cages(machine)} == {"web.vmx", "web.vmdk", "web-flat.vmdk", "vmware.log"}
