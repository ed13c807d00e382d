"""Who may do what with policies, events and permissions: as the table says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine import Machine
from tests.mounted.who_may import Example, departures, populated, reads

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.interop("unshare", "setpriv", "nsenter")]

EXAMPLES = {
    "health": reads("", "health ds"),
    "policy list": reads("", "policy list"),
    "policy show": reads("", "policy show 'VM Encryption Policy'"),
    "policy check": reads("web", "policy check ds"),
    "policy create": Example("ioflt policy remove mine || true", "policy create mine --clear"),
    "policy create: one that encrypts": Example(
        "ioflt policy remove mine || true", "policy create mine --encrypt"
    ),
    "policy remove": Example("ioflt policy create mine --clear || true", "policy remove mine"),
    "policy remove: one that encrypts": Example(
        "ioflt policy create mine --encrypt || true", "policy remove mine"
    ),
    "policy clone": Example("ioflt policy remove mine || true", "policy clone 'Datastore Default' mine"),
    "policy clone: one that encrypts": Example(
        "ioflt policy remove mine || true", "policy clone 'VM Encryption Policy' mine"
    ),
    "attest": Example("rm -f out/*.report", "attest ds --out out/$$.report"),
    "events": reads("", "events"),
    "events: --folder": reads("ioflt folder create told --events || true", "events --folder told"),
    "events set": Example("ioflt events set --required yes", "events set --required no"),
    "role list": reads("", "role list"),
    "role show": reads("", "role show read-only"),
    "role create": Example("ioflt role remove mine || true", "role create mine"),
    "role clone": Example("ioflt role remove mine || true", "role clone read-only mine"),
    "role remove": Example("ioflt role create mine || true", "role remove mine"),
    "permission list": reads("", "permission list"),
    "permission explain": reads("", "permission explain $(id -un) System.Read everything"),
    "permission grant": Example(
        "ioflt permission revoke daemon everything || true", "permission grant daemon read-only everything"
    ),
    "permission revoke": Example(
        "ioflt permission grant daemon read-only everything", "permission revoke daemon everything"
    ),
    "folder list": reads("", "folder list"),
    "folder create": Example("ioflt folder delete mine || true", "folder create mine"),
    "folder set": Example(
        "ioflt folder create mine || true; ioflt folder set mine", "folder set mine --provider local"
    ),
    "folder delete": Example("ioflt folder create mine || true", "folder delete mine"),
    "folder add": Example(
        "ioflt folder create mine || true; ioflt folder remove mine other || true", "folder add mine other"
    ),
    "folder remove": Example(
        "ioflt folder create mine || true; ioflt folder add mine other || true", "folder remove mine other"
    ),
    "service list": reads("", "service list"),
    "service create": Example("ioflt service remove mine || true", "service create mine"),
    "service remove": Example("ioflt service create mine || true", "service remove mine"),
    "events verify": reads("", "events verify"),
    "events verify: --folder": reads(
        "ioflt folder create told --events || true", "events verify --folder told"
    ),
    "folder show": reads(
        "ioflt folder create mine || true", "folder show mine", refused=(10, "no such folder: mine")
    ),
    "completion": reads("", "completion bash"),
    # The last one: nobody is administrator any more.
    "setup": Example(
        "", "setup --separate-duties --key-admin user:key-administrator --vm-admin user:backup-operator"
    ),
}


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with populated() as found:
        yield found


@pytest.mark.parametrize("name", EXAMPLES)
def test_who_may_is_as_the_table_says(machine: Machine, name: str) -> None:
    assert departures(machine, name, EXAMPLES[name]) == []
