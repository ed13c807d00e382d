"""Disks exported over NBD, as clients have them: what they read, who gets in, and that nothing is left."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.backup.listening import listen_unix
from ioflt.backup.nbdserver import NbdServer, Served
from ioflt.backup.transports import open_datastore, open_disk
from ioflt.errors import DeniedError
from ioflt.testing.check_transport import check_transport
from ioflt.testing.pykmip import Authority
from ioflt.types import Area
from tests.daemons import end_keyd
from tests.interop.exporting import Export, gone, left, run
from tests.json_spec import check
from tests.mounted.place import Place
from tests.waiting import eventually

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.interop("qemu-img", "qemu-io", "qemu-nbd", "nbdcopy", "nbdinfo", "nbdfuse"),
]

MIB = 1 << 20
SIZE = 16 * MIB
#: Where the disk has data.
DATA = ((MIB, 2 * MIB), (9 * MIB, MIB))
FORMATS = {"vmdk": "web01.vmdk", "qcow2": "top.qcow2", "raw": "disk.raw"}


class Site(Place):
    """The encrypted VM `web01` with one content in disks of three formats; the clear VM `plain`."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.raw = base / "content"
        chance = random.Random(5)
        with self.raw.open("wb") as file:
            file.truncate(SIZE)
            for start, length in DATA:
                file.seek(start)
                file.write(chance.randbytes(length))
        home = self.mount() / "web01"
        home.mkdir()
        for name, options in (("web01.vmdk", "subformat=monolithicFlat"), ("base.qcow2", "compat=1.1")):
            kind = name.rpartition(".")[2]
            run("qemu-img", "convert", "-O", kind, "-o", options, self.raw, home / name)
        backing = ("-b", "base.qcow2", "-F", "qcow2")
        run("qemu-img", "create", "-q", "-f", "qcow2", *backing, home / "top.qcow2")
        run("qemu-img", "convert", "-O", "raw", self.raw, home / "disk.raw")
        flat = ("-O", "vmdk", "-o", "subformat=monolithicFlat")
        for name, options in (("written.vmdk", flat), ("written.raw", ("-O", "raw"))):
            run("qemu-img", "convert", *options, self.raw, home / name)
        odd = self.mountpoint / "odd"
        odd.mkdir()
        run("qemu-img", "create", "-q", "-f", "qcow2", odd / "hostile.qcow2", "1M")
        run("qemu-img", "rebase", "-u", "-b", "/etc/hostname", "-F", "raw", odd / "hostile.qcow2")
        (odd / "broken.qcow2").write_bytes(b"QFI\xfb" + bytes(4096))
        run("qemu-img", "create", "-q", "-f", "qcow2", odd / "guessed.qcow2", "1M")
        run("qemu-img", "rebase", "-u", "-b", "guest.raw", "-F", "raw", odd / "guessed.qcow2")
        guessed = odd / "guessed.qcow2"  # as of before QEMU wanted to be told what the backing file is
        guessed.write_bytes(guessed.read_bytes().replace(b"\xe2\x79\x2a\xca", b"\0\0\0\1"))
        shutil.copy(self.raw, odd / "guest.raw")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "x", "-F", "raw", base / "fake", "1M")
        with (odd / "guest.raw").open("r+b") as file:  # as the guest that has the disk may
            file.write((base / "fake").read_bytes()[: MIB // 2])
            file.seek(0)
            self.guest = hashlib.sha256(file.read()).hexdigest()
        self.umount()
        (self.datastore / "plain").mkdir()
        shutil.copy(self.raw, self.datastore / "plain" / "disk.raw")
        self.ioflt("vm", "register", "--clear", self.datastore / "plain")
        self.ioflt("service", "create", "backup")
        self.ioflt("service", "create", "nobody")

    def export(self, disk: str = "web01.vmdk", *options: object, vm: str = "web01") -> Export:
        return Export(self.datastore / vm, disk, *options)

    def refused(self, *arguments: object, vm: str = "web01") -> tuple[int, str]:
        """Exit code and message of an export that does not come to serve, and leaves nothing."""
        before = left()
        with Export(self.datastore / vm, *arguments) as export:
            assert not export.said
            code, stderr = export.wait()
        assert left() == before
        told = json.loads(next(line for line in stderr.splitlines() if line.startswith("{")))
        return code, told["message"]

    def events(self, operation: str) -> list[dict]:
        found = json.loads(self.ioflt("events", "--json").stdout)
        return [each for each in found if each["operation"] == operation]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    base = Path(tempfile.mkdtemp(prefix=""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IOFLT_HOME", str(base / "home"))
        (base / "home").mkdir(mode=0o700)
        made = Site(base)
        try:
            yield made
        finally:
            end_keyd()
    shutil.rmtree(base)


@pytest.fixture
def granted(site: Site) -> Iterator[None]:
    """The service `backup` may read web01."""
    site.ioflt("permission", "grant", "service:backup", "backup-operator", site.datastore / "web01")
    yield
    site.ioflt("permission", "revoke", "service:backup", site.datastore / "web01", check=False)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def copied(site: Site, uri: str, *options: str) -> bool:
    """Whether nbdcopy reads what was written."""
    target = site.base / "copy"
    target.unlink(missing_ok=True)
    run("nbdcopy", *options, uri, target)
    return digest(target) == digest(site.raw)


def data(uri: str) -> list[tuple[int, int]]:
    """What of the disk is no hole, as clients are told."""
    found: list[tuple[int, int]] = []
    for each in json.loads(run("nbdinfo", "--map", "--json", uri).stdout):
        if each["type"] & 2:
            continue
        if found and sum(found[-1]) == each["offset"]:
            found[-1] = found[-1][0], found[-1][1] + each["length"]
        else:
            found.append((each["offset"], each["length"]))
    return found


# What clients read


@pytest.mark.parametrize("kind", FORMATS)
def test_a_disk_is_read_as_the_guest_sees_it(site: Site, kind: str) -> None:
    with site.export(FORMATS[kind]) as export:
        check("backup export", export.said)
        assert export.said["format"] == kind
        assert copied(site, export.uri)
        assert set(DATA) <= set(data(export.uri)) <= {*DATA, (0, 4096)}  # qemu-img may write the first block
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", export.uri, site.raw)
        told = json.loads(run("nbdinfo", "--json", export.uri).stdout)["exports"][0]
        assert (told["is_read_only"], told["can_multi_conn"]) == (True, True)
        assert export.end()[0] == 0


def test_a_clear_vm_needs_no_permission(site: Site) -> None:
    with site.export("disk.raw", "--for", "service:nobody", vm="plain") as export:
        assert copied(site, export.uri)
        assert export.end()[0] == 0
    assert site.refused("web01.vmdk", "--for", "service:nobody") == (
        3,
        "permission denied: Cryptographer.Access on web01",
    )


def test_it_is_listed_while_it_is_open(site: Site) -> None:
    with site.export("web01.vmdk", "--transport", "nbdssl") as export:
        printed = json.loads(site.ioflt("backup", "exports", "--json").stdout)
        check("backup exports", printed)
        (told,) = printed
        assert (told["vm"], told["disk"], told["for"]) == ("web01", "web01.vmdk", "user:root")
        assert (told["pid"], told["until"]) == (export.process.pid, export.said["until"])
        assert "web01.vmdk" in site.ioflt("backup", "exports").stdout
        export.end()
    assert site.ioflt("backup", "exports").stdout == "no disk is exported\n"


def test_a_port_of_this_host(site: Site) -> None:
    with site.export("web01.vmdk", "--listen", "127.0.0.1:0") as export:
        assert copied(site, export.uri)
        port = export.uri.split(":")[2].split("/")[0]
        assert site.refused("web01.vmdk", "--listen", f"127.0.0.1:{port}") == (
            6,
            f"the port is taken: 127.0.0.1:{port}",
        )
        assert export.end(signal.SIGINT)[0] == 0
    code, why = site.refused("web01.vmdk", "--listen", "0.0.0.0:0")
    assert (code, "without TLS" in why) == (2, True)


@pytest.mark.parametrize(("mode", "kind"), [("nbd", "qcow2"), ("nbdssl", "vmdk")])
def test_a_transport_mode_by_the_contract(site: Site, mode: str, kind: str) -> None:
    holes = (Area(4 * MIB, 4 * MIB), Area(11 * MIB, 5 * MIB))
    with open_datastore(site.datastore) as volume:
        check_transport(lambda: open_disk(volume, "web01", FORMATS[kind], mode), site.raw.read_bytes(), holes)
    assert not left()
    gone(site.datastore)


def test_a_reader_that_is_killed_leaves_nothing(site: Site) -> None:
    script = (
        "import sys, time\n"
        "from ioflt.backup.transports import open_datastore, open_disk\n"
        "with open_datastore(sys.argv[1]) as volume:\n"
        "    with open_disk(volume, 'web01', 'web01.vmdk', 'nbd') as disk:\n"
        "        print(disk.capacity, flush=True)\n"
        "        sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(site.datastore)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert int(reader.stdout.readline()) == SIZE
        reader.kill()
    eventually(lambda: not left())
    gone(site.datastore)
    eventually(lambda: "nbd-" not in Path("/proc/self/mountinfo").read_text())


def test_a_backup_by_nbd(site: Site) -> None:
    target = site.base / "backups"
    made = site.ioflt("backup", "run", site.datastore / "web01", target, "--transport", "nbd", "--json")
    assert json.loads(made.stdout)["transport"] == "nbd"
    assert site.ioflt("backup", "verify", target, "--json").returncode == 0


# What changed


@pytest.mark.parametrize("disk", ["written.vmdk", "written.raw"])
def test_what_changed_since_is_a_dirty_bitmap(site: Site, disk: str) -> None:
    home = site.datastore / "web01"
    site.ioflt("cbt", "enable", home, disk)
    before = json.loads(site.ioflt("cbt", "query", home, disk, "--json").stdout)["change_id"]
    shown = site.mount() / "web01" / disk
    kind = disk.rpartition(".")[2]
    for start, length in ((3 * MIB + 5, 70_000), (0, 1), (SIZE - 512, 512)):
        run("qemu-io", "-f", kind, "-c", f"write -q -P 7 {start} {length}", shown)
    run("qemu-img", "convert", "-f", kind, "-O", "raw", shown, site.base / "now")
    site.umount()
    asked = json.loads(site.ioflt("cbt", "query", home, disk, "--since", before, "--json").stdout)
    changed = [(area["start"], area["length"]) for area in asked["areas"]]
    assert changed == [(0, 65536), (3 * MIB, 131072), (SIZE - 65536, 65536)]
    with site.export(disk, "--since", before) as export:
        context = export.said["bitmap"]
        assert context == "qemu:dirty-bitmap:changed"
        told = json.loads(run("nbdinfo", f"--map={context}", "--json", export.uri).stdout)
        assert [(each["offset"], each["length"]) for each in told if each["type"]] == changed
        assert set(DATA[1:]) <= set(data(export.uri))
        run("nbdcopy", export.uri, site.base / "copy")
        assert digest(site.base / "copy") == digest(site.base / "now")
        assert export.end()[0] == 0
    site.ioflt("cbt", "disable", home, disk)
    assert site.refused(disk, "--since", before)[0] == 10


# Tickets


def test_a_ticket_is_good_for_one_client(site: Site) -> None:
    with site.export("web01.vmdk", "--transport", "nbdssl") as export:
        key = Path(export.said["psk_file"])
        assert key.stat().st_mode & 0o777 == 0o600
        assert copied(site, export.uri, "--connections=4")
        code, stderr = export.wait()
        assert (code, "its ticket was used" in stderr) == (0, True)
        assert not key.exists()
    assert "refused" in run("nbdinfo", export.uri, check=False).stderr
    begun, ended = site.events("backup export")[-1], site.events("export end")[-1]
    assert export.said["ticket"] in json.dumps(begun)
    assert "its ticket was used" in json.dumps(ended)


def test_qemu_img_with_a_ticket(site: Site) -> None:
    with site.export("web01.vmdk", "--transport", "nbdssl") as export:
        directory, name = Path(export.said["psk_file"]).parent, export.said["ticket"]
        port = export.uri.split(":")[2].split("/")[0]
        creds = f"tls-creds-psk,id=t,dir={directory},endpoint=client,username={name}"
        image = f"driver=nbd,host=127.0.0.1,port={port},export=web01/web01.vmdk,tls-creds=t"
        target = site.base / "converted"
        run("qemu-img", "convert", "--object", creds, "--image-opts", image, "-O", "raw", target)
        assert digest(target) == digest(site.raw)
        assert export.wait()[0] == 0


def test_who_has_no_ticket_is_refused_and_uses_none_up(site: Site) -> None:
    with (
        site.export("web01.vmdk", "--transport", "nbdssl") as export,
        site.export("disk.raw", "--transport", "nbdssl") as other,
    ):
        wrong = site.base / "wrong.psk"
        wrong.write_text(f"{export.said['ticket']}:{'00' * 32}\n")
        plain = export.uri.replace("nbds://", "nbd://").replace(f"{export.said['ticket']}@", "")
        at = export.uri.partition("@")[2].partition("/")[0]
        theirs = other.uri.replace(other.uri.partition("@")[2].partition("/")[0], at)
        for uri, told in (
            (export.uri.replace(export.said["psk_file"], str(wrong)), "TLS"),
            (plain.partition("?")[0], "requires TLS"),
            (theirs.replace("disk.raw", "web01.vmdk"), "TLS"),
            (export.uri.replace("web01.vmdk", "disk.raw"), "no export named"),
        ):
            done = run("nbdinfo", "--size", uri, check=False)
            assert (done.returncode, told in done.stderr) == (1, True), done.stderr
        assert copied(site, export.uri)
        code, stderr = export.wait()
        assert (code, "TLS handshake failed" in stderr) == (0, True)
        assert other.end()[0] == 0


def test_a_tickets_time_is_over(site: Site) -> None:
    with site.export("web01.vmdk", "--transport", "nbdssl", "--ticket-time", "1s") as export:
        code, stderr = export.wait()
    assert (code, "the time of its ticket is over" in stderr) == (3, True)
    assert "refused" in run("nbdinfo", export.uri, check=False).stderr


# Certificates


def test_the_certificate_of_the_service_and_no_other(site: Site, granted: None) -> None:
    authority = Authority(site.base / "pki")
    certificate, key = authority.issue("backup")
    server = authority.issue("localhost", hosts=("127.0.0.1", "localhost"))
    site.ioflt("service", "create", "known", "--certificate", certificate)
    site.ioflt("permission", "grant", "service:known", "backup-operator", site.datastore / "web01")

    def directory(name: str, **files: Path) -> Path:
        made = site.base / name
        made.mkdir()
        shutil.copy(authority.path, made / "ca-cert.pem")
        for file, path in files.items():
            shutil.copy(path, made / f"{file.replace('_', '-')}.pem")
        return made

    ours = directory("ours", server_cert=server[0], server_key=server[1], client_cert=certificate)
    theirs = directory("theirs", client_cert=certificate, client_key=key)
    without = directory("without")
    cert, private = authority.issue("backup")  # the same name, by the same authority
    twin = directory("twin", client_cert=cert, client_key=private)
    options = ("--transport", "nbdssl", "--certificates", ours)
    with site.export("web01.vmdk", *options, "--for", "service:known") as export:
        for unknown in (twin, without):
            done = run("nbdinfo", f"{export.uri}?tls-certificates={unknown}", check=False)
            assert done.returncode == 1
        plain = run("nbdinfo", "--size", export.uri.replace("nbds", "nbd"), check=False)
        assert "requires TLS" in plain.stderr
        for _ in range(2):
            assert copied(site, f"{export.uri}?tls-certificates={theirs}")
        site.ioflt("service", "remove", "known")
        assert export.wait()[0] == 3
    assert site.refused("web01.vmdk", *options, "--for", "service:backup") == (
        2,
        "the service:backup was made without a certificate",
    )


# Who it is for may not any more


def test_a_permission_that_is_taken_away_ends_it(site: Site, granted: None) -> None:
    with site.export("web01.vmdk", "--for", "service:backup", "--transport", "nbdssl") as export:
        site.ioflt("permission", "revoke", "service:backup", site.datastore / "web01")
        code, stderr = export.wait()
        denied = "permission denied: Cryptographer.Access on web01"
        assert (code, denied in stderr) == (3, True)
    assert (
        "refused" in run("nbdinfo", export.uri, check=False).stderr
    )  # with its ticket, which was never used
    assert denied in json.dumps(site.events("export end")[-1])
    assert site.refused("web01.vmdk", "--for", "service:backup")[0] == 3


def test_a_lock_ends_it(site: Site) -> None:
    with site.export() as export:
        site.ioflt("keyd", "lock")
        code, stderr = export.wait()
    site.ioflt("keyd", "unlock")
    assert (code, "the key cache is locked" in stderr) == (4, True)


def test_a_keyd_that_takes_over_is_told(site: Site, granted: None) -> None:
    with site.export("web01.vmdk", "--for", "service:backup") as export:
        begun = len(site.events("backup export"))
        end_keyd()
        eventually(lambda: len(site.events("backup export")) > begun)
        assert copied(site, export.uri)
        site.ioflt("permission", "revoke", "service:backup", site.datastore / "web01")
        assert export.wait()[0] == 3


# What goes wrong


@pytest.mark.parametrize("victim", ["qemu-nbd", "ioflt.fuse"])
def test_a_part_of_it_that_dies_ends_it(site: Site, victim: str) -> None:
    with site.export() as export:
        (pid,) = export.children(victim)
        os.kill(pid, signal.SIGKILL)
        code, stderr = export.wait()
    assert (code, "in the middle of the export" in stderr) == (9, True)
    assert not left()
    gone(site.datastore)


def test_nothing_serves_once_it_is_killed(site: Site) -> None:
    with site.export() as export:
        assert export.end(signal.SIGKILL)[0] == -signal.SIGKILL
    gone(site.datastore)
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(OSError, match=r"refused|No such file"):
        client.connect(export.said["socket"])
    assert len(left()) == 1
    with site.export() as after:  # which cleans up
        assert len(left()) == 1
        assert after.said["socket"] != export.said["socket"]
        assert after.end()[0] == 0
    assert not left()
    assert [path.name for path in paths.find().mounts.iterdir()] == []
    assert "its process is gone" in json.dumps(site.events("export end"))


def test_what_cannot_be_exported(site: Site) -> None:
    code, why = site.refused("hostile.qcow2", vm="odd")
    assert (code, "backing name not confined" in why) == (5, True), why
    code, why = site.refused("guessed.qcow2", vm="odd")
    assert (code, "backing format missing" in why) == (5, True), why
    assert site.refused("none.vmdk") == (10, f"{site.datastore}/web01/none.vmdk: no such disk")
    assert site.refused("broken.qcow2", vm="odd")[0] == 5
    assert site.refused("../plain/disk.raw")[0] == 2
    code, why = site.refused("disk.raw", "--for", "nobody", vm="plain")
    assert (code, why.partition(": ")[2]) == (3, "is entered by root alone, not by whom the export is for")
    for option in (("--ticket-time", "10m"), ("--ticket-time", "x"), ("--certificates", "here")):
        assert site.refused("web01.vmdk", *option)[0] == 2


def test_what_a_guest_wrote_makes_no_image_of_its_disk(site: Site) -> None:
    with site.export("guest.raw", vm="odd") as export:
        assert export.said["format"] == "raw"
        run("nbdcopy", export.uri, site.base / "copy")
        assert digest(site.base / "copy") == site.guest
        assert export.end()[0] == 0


def test_the_server_reads_nothing_else(site: Site) -> None:
    """Not even what an image names that was looked through and found good, as it was then."""
    image = site.base / "later.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", image, "1M")
    run("qemu-img", "rebase", "-u", "-b", "/etc/hostname", "-F", "raw", image)
    listening = listen_unix(str(site.base / "nbd"))
    server = NbdServer(Served(site.base, image, "qcow2", "x"), listening)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connected:
        connected.connect(str(site.base / "nbd"))
        with pytest.raises(DeniedError, match=r"hostname.*Permission denied"):
            server.wait_ready(connected)


def test_without_qemu_nbd(site: Site) -> None:
    programs = site.base / "bin"
    programs.mkdir()
    for name in ("umount", "mount", "fusermount3"):
        programs.joinpath(name).symlink_to(shutil.which(name) or "/bin/false")
    with Export(site.datastore / "web01", "web01.vmdk", environment={"PATH": str(programs)}) as export:
        code, stderr = export.wait()
    assert (code, "qemu-nbd is not installed" in stderr) == (10, True), stderr
    assert not left()


@pytest.mark.root
def test_nobody_else_gets_in(site: Site) -> None:
    site.base.chmod(0o755)
    (site.base / "home").chmod(0o755)
    with site.export() as export:
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        run("chmod", "o+x", site.base / "home" / "run")
        done = run(*nobody, "nbdinfo", export.uri, check=False)
        assert (done.returncode, "ermission denied" in done.stderr) == (1, True), done.stderr
        mountpoint = Path(export.said["socket"]).parent.parent / "mnt"
        assert list(mountpoint.iterdir()) == []  # not even root: it is in a namespace of its own
        assert str(mountpoint) not in Path("/proc/self/mountinfo").read_text()
        assert export.end()[0] == 0
