"""VMs whose key servers hang, beside others, under one mount: the others go on, and nobody waits twice."""

import errno
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.keyd.server import MAX_THREADS
from ioflt.keys.kmip.store import KmipStore
from ioflt.testing.kmip_server import KmipServer
from ioflt.testing.pykmip import HOST, Authority, PyKmip
from ioflt.wire.kmip.enumerations import Operation
from tests import kmip_peers
from tests.mounted.place import Place
from tests.waiting import eventually

pytestmark = pytest.mark.fuse

TEXT = b"plaintext" * 1000


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def certificate(authority):
    return authority.issue("server", hosts=(HOST,))


def make_vms(place: Place, *directories: int) -> list[Path]:
    """VMs with so many directories, a disk in each, and keys of the provider `corp`, under a mount whose keyd
    has none of them. The kernel asks for one name after the other in a directory.
    """
    top = place.mount()
    names = [f"web{number}" for number in range(len(directories))]
    for name, count in zip(names, directories, strict=True):
        for number in range(count):
            (top / name / str(number)).mkdir(parents=True)
            (top / name / str(number) / "disk-flat.vmdk").write_bytes(TEXT)
    place.umount()
    for name in names:
        place.ioflt("vm", "recrypt", "--provider", "corp", place.datastore / name)
    place.ioflt("keyd", "stop")
    place.mount()
    return [top / name for name in names]


def test_a_lock_ends_the_wait(place: Place, authority, certificate) -> None:
    with KmipServer(certificate, authority.path) as server:
        kmip_peers.make(KmipStore(paths.find().providers), authority, server.port, seconds=60.0)
        asked, made = make_vms(place, 1, 1)
        server.behaviour.hangs = True
        waiting = [
            subprocess.Popen(["sh", "-c", text], stderr=subprocess.PIPE, text=True)
            for text in (f'exec 3<"{asked}/0/disk-flat.vmdk"', f'exec 3>"{made}/new-flat.vmdk"')
        ]
        eventually(lambda: all(map(waits_for_the_mount, waiting)))
        place.ioflt("keyd", "lock")
        told = [process.communicate()[1] for process in waiting]
        assert all(os.strerror(errno.ENOKEY) in text for text in told)
        server.behaviour.hangs = False
        place.ioflt("keyd", "unlock")
        assert (asked / "0/disk-flat.vmdk").read_bytes() == TEXT


def test_others_go_on(place: Place, authority, certificate, tmp_path) -> None:
    """More requests wait for two of PyKMIP's servers than keyd has threads for a provider."""
    with ExitStack() as running:
        servers = []
        for name in ("one", "two"):
            server = PyKmip.start(tmp_path, authority, certificate, name)
            running.callback(server.kill)
            servers.append(server)
        store = KmipStore(paths.find().providers)
        kmip_peers.make(store, authority, *(server.port for server in servers), seconds=60.0)
        hung, also_hung, kept = make_vms(place, MAX_THREADS + 80, 1, 1)
        native = place.mountpoint / "native"
        (native / "0").mkdir(parents=True)
        (native / "0/disk-flat.vmdk").write_bytes(TEXT)
        with (kept / "0/disk-flat.vmdk").open("rb") as opened:
            for server in servers:
                server.hang()
            waiting = [
                subprocess.Popen(["sh", "-c", f'exec 3<"{hung}/{number}/disk-flat.vmdk"'])
                for number in range(MAX_THREADS + 80)
            ]
            waiting.append(subprocess.Popen(["sh", "-c", f'exec 3>"{also_hung}/new-flat.vmdk"']))
            eventually(lambda: all(map(waits_for_the_mount, waiting)))
            assert opened.read() == TEXT
            assert os.stat(kept / "0/disk-flat.vmdk").st_size == len(TEXT)
            assert (kept / "0/disk-flat.vmdk").read_bytes() == TEXT  # its key is in memory
            assert (native / "0/disk-flat.vmdk").read_bytes() == TEXT
            (native / "new.nvram").write_bytes(TEXT)
            os.rename(native / "new.nvram", native / "renamed.nvram")
            (place.mountpoint / "new").mkdir()
            assert {entry.name for entry in os.scandir(place.mountpoint)} == {
                *("web0", "web1", "web2", "native", "new")
            }
            place.ioflt("keyd", "status")
            assert all(process.poll() is None for process in waiting), "they still wait"
            for server in servers:
                server.go_on()
            assert {process.wait() for process in waiting} == {0}
    assert place.complaints() == []


def test_many_are_listed_and_one_is_asked_for(place: Place, authority, certificate) -> None:
    with KmipServer(certificate, authority.path) as one, KmipServer(certificate, authority.path) as two:
        two.keys = one.keys
        store = KmipStore(paths.find().providers)
        kmip_peers.make(store, authority, one.port, two.port, seconds=1.0)
        vms = make_vms(place, 1, 1, 1, 1, 1)
        for server in (one, two):
            server.behaviour.hangs_after = 1  # it greets
            server.seen.clear()
        listed = subprocess.run(
            ["ls", "-l", *(vm / "0" for vm in vms)], check=True, capture_output=True, text=True
        )
        assert listed.stdout.count(f" {len(TEXT)} ") == len(vms)
        for server in (one, two):
            gets = [item.payload.id for message in server.seen for item in message.items if is_get(item)]
            assert len(set(gets)) == 1, "the others fail at once"
        for server in (one, two):
            server.behaviour.hangs_after = None

        def are_back() -> bool:
            try:
                return all((vm / "0/disk-flat.vmdk").read_bytes() == TEXT for vm in vms)
            except OSError:
                return False

        eventually(are_back)


def is_get(item) -> bool:
    return item.operation == Operation.GET


def waits_for_the_mount(process: subprocess.Popen) -> bool:
    """Whether the process sleeps in a request to a FUSE file system."""
    assert process.poll() is None
    return "request_wait_answer" in Path(f"/proc/{process.pid}/wchan").read_text()
