"""Who may do what with datastores and VMs, by commands: as the table says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine import Machine
from tests.mounted.who_may import Example, departures, populated, reads

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.interop("unshare", "setpriv", "nsenter")]

BACKED_UP = "web; rm -rf other/*; ioflt backup run ds/web other"

KEPT = (
    "web; rm -rf kept; ioflt backup run ds/web kept --ciphertext;"
    " ioflt backup run ds/web kept --ciphertext --incremental"
)

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
    "vm clone: encrypt": Example(
        "plain; rm -rf ds/copy", "vm clone ds/plain ds/copy --policy 'VM Encryption Policy'"
    ),
    "vm clone: decrypt": Example(
        "web; rm -rf clear/copy", "vm clone ds/web clear/copy --policy 'Datastore Default'"
    ),
    "vm clone: a clear VM": Example("plain; rm -rf clear/copy", "vm clone ds/plain clear/copy"),
    "vm move": Example("web; rm -rf other/web", "vm move ds/web other/web"),
    "vm move: rename": Example("web; rm -rf ds/new", "vm move ds/web ds/new"),
    "backup run": Example("web; rm -rf other/web", "backup run ds/web other"),
    "backup run: --clear": Example("web; rm -rf clear/web", "backup run ds/web clear --clear"),
    "backup run: --ciphertext": Example("web; rm -rf kept", "backup run ds/web kept --ciphertext"),
    "backup export": reads(
        "web", "backup export ds/web web.vmdk", refused=(3, "root makes the mounts of this machine")
    ),
    "backup export: a clear VM": reads(
        "plain", "backup export ds/plain web.vmdk", refused=(3, "root makes the mounts of this machine")
    ),
    "backup exports": reads("", "backup exports"),
    "backup hotadd": reads(
        "web",
        "backup hotadd ds/web web.vmdk --qmp qmp",
        refused=(3, "root makes the mounts of this machine"),
    ),
    "backup hotadd: a clear VM": reads(
        "plain",
        "backup hotadd ds/plain web.vmdk --qmp qmp",
        refused=(3, "root makes the mounts of this machine"),
    ),
    "backup list": reads(BACKED_UP, "backup list other"),
    "backup show": reads(BACKED_UP, "backup show other web"),
    "backup verify": reads(BACKED_UP, "backup verify other"),
    "backup restore": Example(f"{BACKED_UP}; rm -rf ds/copy", "backup restore other ds --as copy"),
    "backup prune": Example(
        f"{BACKED_UP}; ioflt backup run ds/web other --incremental", "backup prune other --keep-last 1"
    ),
    "backup prune: of ciphertext": Example(KEPT, "backup prune kept --keep-last 1"),
    "backup replicate": Example(f"{BACKED_UP}; rm -rf ds/web", "backup replicate other ds"),
    "backup replicate: of ciphertext": Example(f"rm -rf new; {KEPT}", "backup replicate kept new"),
    "backup restore: of ciphertext": Example(
        "web; rm -rf kept ds/back; ioflt backup run ds/web kept --ciphertext; rm -rf ds/web",
        "backup restore kept ds --as back",
    ),
    "backup restore: a clear VM": Example(
        "plain; rm -rf other/* clear/copy; ioflt backup run ds/plain other",
        "backup restore other clear --as copy",
    ),
    "vm import": Example("rm -rf ds/new", "vm import source ds --as new"),
    "vm export": Example("web; rm -rf out/web", "vm export ds/web out/web"),
    "vm export: a clear VM": Example("plain; rm -rf out/plain", "vm export ds/plain out/plain"),
    "vm import: a clear VM": Example("rm -rf clear/new", "vm import source clear --as new"),
    "vm move: rename a clear VM": Example("plain; rm -rf ds/new", "vm move ds/plain ds/new"),
    "vm move: a clear VM to another datastore": Example(
        "plain; rm -rf clear/plain", "vm move ds/plain clear/plain"
    ),
    "vm erase": Example("web", "vm erase ds/web --yes"),
    "cbt enable": Example("web", "cbt enable ds/web web.vmdk"),
    "cbt enable: a clear VM": Example("plain", "cbt enable ds/plain web.vmdk"),
    "cbt disable": Example("web; ioflt cbt enable ds/web web.vmdk", "cbt disable ds/web web.vmdk"),
    "cbt disable: a clear VM": Example(
        "plain; ioflt cbt enable ds/plain web.vmdk", "cbt disable ds/plain web.vmdk"
    ),
    "cbt query": Example("web; ioflt cbt enable ds/web web.vmdk", "cbt query ds/web web.vmdk"),
    "cbt query: a clear VM": Example(
        "plain; ioflt cbt enable ds/plain web.vmdk", "cbt query ds/plain web.vmdk"
    ),
    "disk extend": Example("web", "disk extend ds/web/web.vmdk 2M"),
    "disk extend: a clear VM": Example("plain", "disk extend ds/plain/web.vmdk 2M"),
    "policy assign": Example("ioflt policy create mine || true; web", "policy assign mine ds/web"),
    "policy assign: to a datastore": Example(
        "ioflt policy assign 'VM Encryption Policy' other; ioflt policy create mine || true",
        "policy assign mine other",
    ),
    "policy assign: encrypt": Example("plain", "policy assign 'VM Encryption Policy' ds/plain"),
    "policy assign: decrypt": Example("web", "policy assign 'Datastore Default' ds/web"),
    "recovery add": Example(
        "web; echo secret > secret", "recovery add ds/web/web.vmdk --passphrase-file secret"
    ),
    "recovery fill": Example("thin", "recovery fill ds/web/web-flat.vmdk"),
    "recovery remove": Example("slots", "recovery remove ds/web/web-flat.vmdk --all"),
    "header backup": Example("web; rm -f out/headers", "header backup ds/web out/headers"),
    "vmx export": Example(
        "web; rm -f out/vmx; echo secret > secret", "vmx export ds/web -o out/vmx --passphrase-file secret"
    ),
    "datastore recrypt: --key": Example("key_of clear > k", "datastore recrypt other --key $(cut -d: -f2 k)"),
    "vm recrypt: --key": Example("plain; web; key_of clear > k", "vm recrypt ds/web --key $(cut -d: -f2 k)"),
    "vm move: --key": Example(
        "web; rm -rf other/web; key_of clear > k", "vm move ds/web other/web --key $(cut -d: -f2 k)"
    ),
    "vm erase: --destroy-key": Example(
        "web; rm -rf /mnt/home/*/state", "vm erase ds/web --destroy-key --yes"
    ),
    "check: what needs a VM's key": reads(
        "web", "check ds/web", refused=(13, "permission denied: Cryptographer.Access on web")
    ),
    "policy assign: to a datastore, which encrypts then": Example(
        "ioflt policy assign 'Datastore Default' other", "policy assign 'VM Encryption Policy' other"
    ),
    "policy assign: to a datastore, which is clear then": Example(
        "ioflt policy assign 'VM Encryption Policy' other", "policy assign 'Datastore Default' other"
    ),
    "header restore": Example(
        "web; rm -f out/headers; ioflt header backup ds/web out/headers", "header restore out/headers ds/web"
    ),
    "vmx import": Example(
        "web; rm -f out/web.vmx; echo secret > secret;"
        "ioflt vmx export ds/web -o out/web.vmx --passphrase-file secret",
        "vmx import out/web.vmx ds/web --force --passphrase-file secret",
    ),
    "datastore register": Example(
        "cp other/.ioflt r; ioflt datastore recrypt other; everybody vm list other; cp r other/.ioflt",
        "datastore register other --accept-rollback",
    ),
}


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with populated() as found:
        yield found


@pytest.mark.parametrize("name", EXAMPLES)
def test_who_may_is_as_the_table_says(machine: Machine, name: str) -> None:
    assert departures(machine, name, EXAMPLES[name]) == []
