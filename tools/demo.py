"""The main job on real input: keys, import, encrypt, mount, compare, look from behind, recover, boot.

Everything that touches the datastore is the `ioflt` command or a program of another project. Prints what it
proves, ends with a table, exits non-zero on any mismatch, and leaves nothing mounted or running. The keys are
on two key servers, of which the guest survives one; with `--kms native` they are this machine's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.table import Table
from rich.text import Text

from demo_common import IOFLT, Proofs, Stopped, console, ioflt, must, run, step
from demo_kms import PROVIDER, KeyServers

ROOT = Path(__file__).resolve().parent.parent
CANARY = b"IOFLT-CANARY-5e0c2d"  # images/recipes/ext4.sh
FORMATS = (  # of images/recipes/ext4.sh
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "streamOptimized",
    "vmfs",
)
BOOT_SECONDS = 90
CONTAINER_DATA = 1 << 20  # where a container's data start; before lie its headers, which are meant to be read


# The two views of one disk


@dataclass(frozen=True)
class Disk:
    """A disk as the mount shows it and as the datastore stores it, and the original to compare with."""

    name: str
    format: str
    through: Path
    behind: Path
    original: Path
    original_format: str


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def virtual_size(path: Path, fmt: str) -> int:
    return int(json.loads(must("qemu-img", "info", "--output=json", "-f", fmt, path))["virtual-size"])


def compare_through(disk: Disk, work: Path, proofs: Proofs) -> None:
    """qemu-img on the mount against the original: info, check, convert, compare."""
    expected = virtual_size(disk.original, disk.original_format)
    info = virtual_size(disk.through, disk.format) == expected
    checked = run("qemu-img", "check", "-f", disk.format, disk.through)
    sound = checked.code in (0, 63)  # 63: the format (flat, raw) has nothing to check
    raws = [work / "through.raw", work / "original.raw"]
    must("qemu-img", "convert", "-f", disk.format, "-O", "raw", disk.through, raws[0])
    must("qemu-img", "convert", "-f", disk.original_format, "-O", "raw", disk.original, raws[1])
    digests = [sha256(path) for path in raws]
    compared = run(
        "qemu-img", "compare", "-f", disk.format, "-F", disk.original_format, disk.through, disk.original
    )
    proofs.add(
        f"{disk.name}: qemu-img info, check, convert and compare agree with the original",
        info and sound and digests[0] == digests[1] and compared.ok,
        f"{expected} bytes, sha256 {digests[0][:12]}…, {compared.said}",
    )


def refuse_behind(disk: Disk, work: Path, proofs: Proofs) -> None:
    """The same commands on the datastore: each must fail, and say so."""
    target = work / "behind.raw"
    attempts = {
        "info": run("qemu-img", "info", "-f", disk.format, disk.behind),
        "check": run("qemu-img", "check", "-f", disk.format, disk.behind),
        "convert": run("qemu-img", "convert", "-f", disk.format, "-O", "raw", disk.behind, target),
        "compare": run(
            "qemu-img", "compare", "-f", disk.format, "-F", disk.original_format, disk.behind, disk.original
        ),
    }
    proofs.add(
        f"{disk.name}: behind the mount the same four fail with a message",
        all(outcome.refused for outcome in attempts.values()),
        "exit codes "
        + ", ".join(str(outcome.code) for outcome in attempts.values())
        + f": {attempts['info'].said}",
    )


def side_by_side(disk: Disk) -> None:
    """Print both views of one command."""
    table = Table(title=f"qemu-img info -f {disk.format} {disk.through.name}", title_justify="left")
    table.add_column("through the mount")
    table.add_column("on the raw datastore")
    views = [run("qemu-img", "info", "-f", disk.format, path) for path in (disk.through, disk.behind)]
    shown = ["\n".join((view.output + view.errors).splitlines()[:7]) for view in views]
    table.add_row(*(Text(text) for text in shown))
    table.add_row(*(Text(f"exit code {view.code}", "bold") for view in views))
    table.add_row(*(Text(head(path), "dim") for path in (disk.through, disk.behind)))
    console.print(table)


def head(path: Path) -> str:
    """The first bytes of what matters, as a hex dump."""
    with path.open("rb") as file:
        if file.read(6) == b"LUKS\xba\xbe":
            file.seek(CONTAINER_DATA)
        else:
            file.seek(0)
        data = file.read(24)
    return "\n".join(data[at : at + 8].hex(" ") for at in range(0, len(data), 8))


# The look of the bytes behind


def stored_data(directory: Path) -> Iterator[bytes]:
    """The written, encrypted sectors of every container below `directory`, in 4 KiB pieces."""
    hole = bytes(4096)
    for path in sorted(directory.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        with path.open("rb") as file:
            if file.read(6) != b"LUKS\xba\xbe":
                continue
            file.seek(CONTAINER_DATA)
            while piece := file.read(4096):
                if piece != hole[: len(piece)]:
                    yield piece


def chi_square(pieces: Iterator[bytes]) -> tuple[int, float]:
    """How many bytes there are, and their chi-square against even use of the 256 values (255 expected)."""
    counts = [0] * 256
    for piece in pieces:
        for value in set(piece):
            counts[value] += piece.count(value)
    total = sum(counts)
    if not total:
        return 0, 0.0
    even = total / 256
    return total, sum((count - even) ** 2 for count in counts) / even


def files_with(needle: bytes, directory: Path) -> list[str]:
    found = run("grep", "-r", "-l", "-a", "-F", needle.decode(), directory)
    return found.output.split()


# The guest


@contextmanager
def guest(disk: Path, fmt: str, *, throw_away: bool) -> Iterator[Monitor]:
    """A guest running from `disk`, killed at the end if it did not quit."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [
            *("qemu-system-x86_64", "-accel", "tcg", "-m", "256", "-nodefaults", "-no-user-config"),
            *("-display", "none", "-vga", "std"),
            *("-drive", f"file={disk},format={fmt},if=ide,snapshot={'on' if throw_away else 'off'}"),
            *("-chardev", f"socket,id=monitor,fd={theirs.fileno()}", "-mon", "chardev=monitor,mode=control"),
        ],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    theirs.close()
    try:
        with ours:
            yield Monitor(ours)
    finally:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Monitor:
    """QEMU's control socket: as much of QMP as is needed."""

    def __init__(self, link: socket.socket) -> None:
        self._file = link.makefile("rw")
        self._file.readline()  # the greeting
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: str) -> object:
        self._file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._file.flush()
        for line in self._file:
            answer = json.loads(line)
            if "error" in answer:
                raise Stopped(f"qemu: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise Stopped("qemu ended")

    def reads(self) -> tuple[int, int]:
        """How many times the guest read its disk, and how many of its reads and writes failed."""
        told = self.ask("query-blockstats")
        assert isinstance(told, list)
        counts = [device["stats"] for device in told]
        failed = sum(count["failed_rd_operations"] + count["failed_wr_operations"] for count in counts)
        return sum(count["rd_operations"] for count in counts), failed

    def screen(self) -> list[str]:
        """The lines of the VGA text buffer, those scrolled off too: 32 KiB of character and colour pairs."""
        told = str(self.ask("human-monitor-command", **{"command-line": "xp /4096xg 0xb8000"}))
        words = re.findall(r"0x([0-9a-f]{16})\b", told)
        memory = b"".join(int(word, 16).to_bytes(8, "little") for word in words)
        text = memory[::2].decode("cp437").replace("\0", " ")
        return [text[at : at + 80].rstrip() for at in range(0, len(text), 80)]


def boot(disk: Disk, proofs: Proofs, meanwhile: Callable[[], None] | None = None) -> None:
    """Run the guest until it prompts. `meanwhile` is done once it boots from its disk."""
    stream = "streamOptimized" in must("qemu-img", "info", "-f", disk.format, disk.through)
    started, lines = time.monotonic(), [""]
    with guest(disk.through, disk.format, throw_away=stream) as monitor:
        before = (0, 0)
        if meanwhile is not None:
            while not before[0] and time.monotonic() - started < BOOT_SECONDS:
                time.sleep(0.05)
                before = monitor.reads()
            meanwhile()
        resumed = time.monotonic()
        while time.monotonic() - resumed < BOOT_SECONDS:
            lines = monitor.screen()
            if any("login:" in line for line in lines):
                break
            time.sleep(0.5)
        after = monitor.reads()
        monitor.ask("quit")
    shown = [line for line in lines if line][-5:]
    for line in shown:
        console.print(Text("  │ " + line, style="dim"))
    reached = any("login:" in line for line in lines)
    proofs.add(
        f"{disk.name}: the guest boots from the mounted disk to its login prompt",
        reached,
        f"{time.monotonic() - started:.0f} s under TCG" if reached else f"no prompt in {BOOT_SECONDS} s",
    )
    if meanwhile is not None:
        proofs.add(
            "the guest that was booting when the key server was killed did not notice",
            reached and 0 < before[0] < after[0] and after[1] == 0,
            f"{before[0]} disk reads before, {after[0] - before[0]} after, {after[1]} failed",
        )


# The whole


@dataclass(frozen=True)
class Place:
    """Where the demo works."""

    work: Path
    store: Path
    mount: Path
    images: Path


def prepare(place: Place, proofs: Proofs) -> Path:
    """Fetch and make the inputs. Returns the original disk of the OVA."""
    step("The inputs: a VM exported by vCenter, and an ext4 disk in every format")
    for recipe in ("ova.sh", "ext4.sh"):
        must(ROOT / "images" / "recipes" / recipe, place.images, timeout=300)
    ova = place.images / "tty_tiny.ova"
    with tarfile.open(ova) as archive:
        archive.extractall(place.work / "ova", filter="data")
    (disk,) = (place.work / "ova").glob("*.vmdk*")
    files = place.store / "files"
    files.mkdir(parents=True)
    for name in FORMATS:
        (files / name).mkdir()
        for path in (place.images / f"ext4-{name}").iterdir():
            must("cp", "--sparse=always", path, files / name / path.name)
    must("cp", "--sparse=always", place.images / "ext4-qcow2" / "disk.qcow2", files / "disk.qcow2")
    readable = files_with(CANARY, place.store)
    proofs.add(
        "before: whoever reads the datastore reads the VM", bool(readable), f"canary in {len(readable)} files"
    )
    return disk


def encrypt(place: Place, provider: str | None) -> None:
    step("A datastore: one VM imported into it, one that was there encrypted in place")
    keys = [] if provider is None else ["--provider", provider]
    ioflt("datastore", "init", place.store, "--encrypt", "--adopt-clear", *keys)
    ioflt("vm", "import", place.images / "tty_tiny.ova", place.store, "--as", "tiny")
    ioflt("vm", "encrypt", place.store / "files")
    console.print(Text(ioflt("vm", "list", place.store).rstrip()))


def disks(place: Place, original: Path) -> list[Disk]:
    """Every disk of both VMs. The imported one is where its VMX says."""
    vmx = next((place.mount / "tiny").glob("*.vmx"))
    named = re.search(r'(?im)^[a-z]+\d+:\d+\.fileName\s*=\s*"([^"]+\.vmdk)"', vmx.read_text())
    if named is None:
        raise Stopped(f"{vmx}: names no disk")
    tiny, files = Path("tiny") / named[1], Path("files")
    ext4 = place.images / "ext4.raw"
    rows = [("imported VM", "vmdk", tiny, original, "vmdk")]
    rows += [(name, "vmdk", files / name / "disk.vmdk", ext4, "raw") for name in FORMATS]
    rows += [("qcow2", "qcow2", files / "disk.qcow2", ext4, "raw")]
    return [
        Disk(name, fmt, place.mount / path, place.store / path, source, source_format)
        for name, fmt, path, source, source_format in rows
    ]


def look_behind(place: Place, proofs: Proofs) -> None:
    step("The datastore as a SAN reader sees it")
    total, score = chi_square(stored_data(place.store))
    # 255 degrees of freedom: mean 255, standard deviation 22.6; ten of them never happen to random bytes
    proofs.add(
        "the stored bytes are random",
        total > 1 << 20 and score < 255 + 226,
        f"χ² {score:.0f} of {total} bytes",
    )
    clear = files_with(CANARY, place.store) + files_with(CANARY, place.work / "home")
    proofs.add(
        "nothing that the disks hold is found in it",
        not clear,
        "canary in 0 files" if not clear else str(clear),
    )
    containers = [
        path
        for path in place.store.rglob("*")
        if path.is_file() and not path.name.startswith(".ioflt") and path.suffix != ".vmx"
    ]
    bare = [path.name for path in containers if path.read_bytes()[:6] != b"LUKS\xba\xbe"]
    proofs.add("every file but the VMX is a LUKS2 container", not bare, f"{len(containers)} files")


def inspect_without_key(disk: Disk, place: Place, proofs: Proofs) -> None:
    step("ioflt inspect: what a stored file is, without any key")
    stranger = {"IOFLT_HOME": str(place.work / "stranger")}
    looked = run(IOFLT, "inspect", disk.behind, env=stranger)
    console.print(Text(looked.output.rstrip(), style="dim"))
    proofs.add(
        "inspect names the cipher and the key of a stored file, knowing neither provider nor key",
        looked.ok and "aes-xts" in looked.output and not (place.work / "stranger" / "run").exists(),
        disk.behind.name,
    )


def recover(disk: Disk, place: Place, proofs: Proofs) -> None:
    step("A recovery passphrase, opened by stock cryptsetup, with the mount at work")
    right, wrong = place.work / "passphrase", place.work / "wrong"
    right.write_bytes(b"correct horse battery staple")
    wrong.write_bytes(b"incorrect horse")
    for path in (right, wrong):
        path.chmod(0o600)
    ioflt("recovery", "add", disk.behind, "--passphrase-file", right)
    probe = ("cryptsetup", "open", "--test-passphrase", "--type", "luks2", "--key-file")
    opened, refused = run(*probe, right, disk.behind), run(*probe, wrong, disk.behind)
    proofs.add(
        "stock cryptsetup opens the container by the recovery passphrase, and by no other",
        opened.ok and refused.code == 2,
        f"right passphrase {opened.code}, wrong one {refused.code}",
    )


def end_mount(place: Place) -> None:
    if os.path.ismount(place.mount):
        run(IOFLT, "umount", place.mount)
    if os.path.ismount(place.mount):
        run("fusermount3", "-u", "-z", place.mount)


def end_keyd(place: Place) -> None:
    """Stop the daemon of this demo; end by its id what does not stop."""
    run(IOFLT, "keyd", "stop")
    for pid in leftover(place):
        os.kill(pid, signal.SIGTERM)


def leftover(place: Place) -> list[int]:
    """Processes that carry this demo's $IOFLT_HOME."""
    mark = f"IOFLT_HOME={place.work / 'home'}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0") and (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:  # it ended, or is not ours to look at
            continue
    return found


def fail_over(servers: KeyServers, other: Disk, proofs: Proofs) -> None:
    """Kill a key server, and open what nobody had open: its key comes from the other one."""
    servers.kill_one(proofs)
    ioflt("keyd", "stop")  # its cache is gone with it, and its connections
    ioflt("keyd", "start")
    before = cached_keys()
    compared = run(
        "qemu-img", "compare", "-f", other.format, "-F", other.original_format, other.through, other.original
    )
    after = cached_keys()
    proofs.add(
        "a disk opened after that, by a keyd with no key cached, has its key from the other server",
        compared.ok and before == 0 < after,
        f"{other.name}: {compared.said}",
    )


def cached_keys() -> int:
    return int(json.loads(must(IOFLT, "keyd", "status", "--json"))["cached_keys"])


def show(place: Place, proofs: Proofs, servers: KeyServers | None, *, with_guest: bool) -> None:
    """All steps; `servers` unless the keys are this machine's. Raises Stopped."""
    original = prepare(place, proofs)
    if servers is not None:
        servers.start()
        servers.exchange_trust(proofs)
    encrypt(place, None if servers is None else PROVIDER)
    if servers is not None:
        servers.have_the_keys(place.store, proofs)

    step("Mounted: every disk as it was")
    ioflt("mount", place.store, place.mount)
    every = disks(place, original)
    side_by_side(every[0])
    for disk in every:
        compare_through(disk, place.work, proofs)
    look_behind(place, proofs)
    for disk in every:
        refuse_behind(disk, place.work, proofs)
    inspect_without_key(every[0], place, proofs)
    recover(every[0], place, proofs)
    meanwhile = None if servers is None else partial(fail_over, servers, every[1], proofs)
    if with_guest:
        step("The guest, from its encrypted disk" + (", and a key server killed" if meanwhile else ""))
        boot(every[0], proofs, meanwhile)
    elif meanwhile is not None:
        step("A key server killed")
        meanwhile()

    step("The end: unmounted, verified, nothing left")
    ioflt("umount", place.mount)
    proofs.add("the datastore is sound", run(IOFLT, "check", place.store).ok, "ioflt check")
    ioflt("keyd", "stop")
    if servers is not None:
        servers.end(place.store, proofs)
        ioflt("keyd", "stop")
    ended = time.monotonic()
    while leftover(place) and time.monotonic() - ended < 10:  # what was killed takes a moment to be gone
        time.sleep(0.05)
    proofs.add(
        "nothing is mounted or running any more",
        not os.path.ismount(place.mount) and not leftover(place),
        "mount table and process list",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the working directory")
    parser.add_argument(
        "--kms", choices=("kmip", "native"), default="kmip", help="where keys are: two key servers, or here"
    )
    arguments = parser.parse_args()
    started, proofs = time.monotonic(), Proofs()
    with ExitStack() as cleanup:
        work = Path(tempfile.mkdtemp(prefix="ioflt-demo-"))
        place = Place(work, work / "datastore", work / "mnt", ROOT / ".cache" / "images")
        if not arguments.keep:
            cleanup.callback(shutil.rmtree, work)
        place.mount.mkdir()
        os.environ["IOFLT_HOME"] = str(work / "home")
        cleanup.callback(end_keyd, place)
        cleanup.callback(end_mount, place)
        servers = None
        if arguments.kms == "kmip":
            servers = KeyServers(work / "kms")
            cleanup.callback(servers.kill)
        with_guest = shutil.which("qemu-system-x86_64") is not None
        try:
            show(place, proofs, servers, with_guest=with_guest)
        except (Stopped, subprocess.TimeoutExpired, OSError) as error:
            console.print(Text(f"\n{error}", style="red"))
            proofs.add("the demo ran to its end", False, type(error).__name__)
    if not with_guest:
        console.print("not shown: the guest's boot, because qemu-system-x86_64 is not installed")
    proofs.show()
    console.print(f"{time.monotonic() - started:.0f} s")
    return 0 if proofs.all_hold else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
