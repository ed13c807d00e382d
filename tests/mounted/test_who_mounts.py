"""Who may do what in a mount that is his: as the table says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ioflt.access.operations import OPERATIONS
from tests.machine import Machine
from tests.mounted import test_who_administers, test_who_keeps_keys, test_who_may
from tests.mounted.who_may import HELD, MOUNTS, departures, in_mount, populated, reads, root

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.interop("unshare", "setpriv", "nsenter")]

EXAMPLES = {
    "mount: list, stat": in_mount("web", "ls -l web", reads=True),
    "mount: read or write": in_mount("web", "sha256sum web/web-flat.vmdk", reads=True),
    "mount: save a VMX": in_mount("web", "echo 'numvcpus = \"2\"' >> web/web.vmx"),
    "mount: add a file": in_mount("web", "echo 1 > web/new"),
    "mount: make an encrypted VM": in_mount("rm -rf ds/fresh", "mkdir fresh && echo 1 > fresh/new"),
    "mount: rename, link or remove in a VM": in_mount(
        "web", "mv web/web.vmdk web/old.vmdk && rm web/old.vmdk"
    ),
    "mount: remove a VM": in_mount("web", "rm -r web"),
    "mount: rename a VM": in_mount("web; rm -rf ds/new", "mv web new"),
    "mount: rename to or from *.vmx": in_mount("web", "mv web/web.vmx web/old"),
    "mount: rename a clear file of an encrypted VM": in_mount(
        "web; ioflt vm decrypt ds/web --disk web.vmdk", "mv web/web-flat.vmdk web/old"
    ),
    "mount: rename a clear VM": in_mount("plain; rm -rf ds/new", "mv plain new"),
    "mount: make a clear VM": in_mount("rm -rf clear/fresh", "mkdir fresh && echo 1 > fresh/new", of="clear"),
    "mount: read or write a clear VM": in_mount("plain", "cat plain/web.vmx && echo 1 > plain/new"),
    "mount": reads("mkdir -p new", "mount ds new", refused=(3, "root makes the mounts of this machine")),
    "backup mount": reads(
        "mkdir -p new", "backup mount ds new", refused=(3, "root makes the mounts of this machine")
    ),
    "umount": reads("", "umount /mnt/mounts/clear-administrator", refused=(3, "root")),
}


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """Each user has a mount of each of two datastores."""
    with populated() as found:
        mounts = [
            (datastore, who, f"{MOUNTS}/{datastore}-{who}") for datastore in ("ds", "clear") for who in HELD
        ]
        made = (f"mkdir -p {at}; ioflt mount {datastore} {at} --as {who}" for datastore, who, at in mounts)
        root(found, "; ".join(made))
        yield found
        root(found, "; ".join(f"ioflt umount {at}" for *_, at in mounts))


@pytest.mark.parametrize("name", EXAMPLES)
def test_who_may_is_as_the_table_says(machine: Machine, name: str) -> None:
    assert departures(machine, name, EXAMPLES[name]) == []


def test_every_row_of_the_table_is_tried() -> None:
    modules = (test_who_may, test_who_administers, test_who_keeps_keys)
    tried = [*EXAMPLES, *(name for module in modules for name in module.EXAMPLES)]
    assert sorted(tried) == sorted(OPERATIONS)
