"""A canary written through the mount is found nowhere outside it: datastore, state, logs, core dumps."""

import mmap
import os
import resource
import signal
import subprocess
from base64 import b64encode
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.keys.client import KeyClient
from tests.waiting import await_end

pytestmark = [pytest.mark.fuse, pytest.mark.root]

CANARY = b"IOFLT-CANARY-7c1e90-stays-in-its-cage"
NAME = "IOFLT-VISIBLE-NAME"

#: As it is, and in the forms in which VMX and JSON would hold it.
FORMS = (
    CANARY,
    CANARY.decode().encode("utf-16-le"),
    CANARY.replace(b"-", b"%2d"),
    *(b64encode(bytes(shift) + CANARY)[4:-4] for shift in range(3)),
)


def cages(top: Path) -> list[Path]:
    """Files below `top` that hold the canary in any of its forms."""
    found = []
    for path in top.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_dev == top.stat().st_dev:
            content = path.read_bytes()
            if any(form in content for form in FORMS):
                found.append(path)
    return found


def write_every_kind(home: Path, scratch: Path) -> None:
    """A VM's files, each with the canary in it."""
    line = CANARY + b"\n"
    (home / "vm.vmx").write_bytes(b'displayName = "' + NAME.encode() + b'"\nannotation = "' + CANARY + b'"\n')
    (home / "vm.vmdk").write_bytes(b'# Disk DescriptorFile\nRW 256 VMFS "vm-flat.vmdk"\n# ' + line)
    for name in ("vmware.log", "vm.nvram", "vm.vmsd", "vm.vswp", "vm.vmss", ".hidden", "no-suffix"):
        (home / name).write_bytes(line * 500)
    with (home / "vm-flat.vmdk").open("w+b", buffering=0) as file:
        file.truncate(1 << 20)
        for offset in (0, 5000, 500_000):
            os.pwrite(file.fileno(), line, offset)
        with mmap.mmap(file.fileno(), 1 << 20) as mapped:
            mapped[700_000 : 700_000 + len(line)] = line
    (home / "sub" / "deep").mkdir(parents=True)
    (home / "sub" / "deep" / "file").write_bytes(line)
    (home / "was.txt").write_bytes(line)
    (home / "was.txt").rename(home / "is.vmx")
    (home / "was.vmx").write_bytes(line)
    (home / "was.vmx").rename(home / "is.txt")
    (home / "back.log").write_bytes(line)
    (home / "back.log").rename(home / "back.vmx")
    (home / "back.vmx").rename(home / "back.log")
    (home / "removed").write_bytes(line)
    (home / "removed").unlink()
    raw = scratch / "raw"
    raw.write_bytes(line * 5000)
    for name, form in (("vm.qcow2", "qcow2"), ("sparse.vmdk", "vmdk")):
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", form, raw, home / name], check=True)
    raw.unlink()


def expected(home: Path) -> bool:
    return (home / "is.vmx").read_bytes() == (home / "is.txt").read_bytes() == CANARY + b"\n"


@pytest.mark.interop("qemu-img")
def test_written_through_the_mount(place, tmp_path):
    top = place.mount()
    (top / "vm").mkdir()
    write_every_kind(top / "vm", tmp_path)
    (top / "at-the-root.iso").write_bytes(CANARY * 100)
    (top / "at-the-root.vmx").write_bytes(CANARY)
    assert expected(top / "vm")
    assert len(cages(top)) == 18  # what is searched for can be found
    os.sync()
    searched = (place.datastore, paths.find().state, paths.find().run)
    assert [cages(directory) for directory in searched] == [[], [], []]
    place.remount()
    assert expected(top / "vm")
    assert [cages(directory) for directory in searched] == [[], [], []]
    assert NAME.encode() in (place.datastore / "vm" / "vm.vmx").read_bytes()


@pytest.mark.interop("qemu-img")
@pytest.mark.parametrize("thick", [(), ("--thick",)])
def test_encrypted_in_place(place, tmp_path, thick):
    home = place.datastore / "vm"
    home.mkdir()
    place.ioflt("vm", "decrypt", home)
    write_every_kind(home, tmp_path)
    assert len(cages(home)) > 10
    place.ioflt("vm", "encrypt", home, *thick)
    assert cages(place.base) == []
    assert expected(place.mount() / "vm")


@pytest.fixture
def cores_allowed():
    """This process and those it starts may dump core."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


def cores(*directories: Path) -> set[Path]:
    return {path for directory in directories for path in directory.glob("core*")}


def core_limit(pid: int) -> list[str]:
    """Soft and hard limit of a core, in bytes, as the kernel keeps them for a process."""
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    line = next(line for line in limits if line.startswith("Max core file size"))
    return line.split()[4:6]


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
def test_no_core_is_dumped(place, tmp_path, cores_allowed, number):
    if not Path("/proc/sys/kernel/core_pattern").read_text().startswith(("|", "/")):
        with subprocess.Popen(["sleep", "60"], cwd=tmp_path) as other:
            other.send_signal(number)
        assert cores(tmp_path)  # what is looked for can be found

    top = place.mount()
    (top / "vm").mkdir()
    (top / "vm" / "vm.vmx").write_bytes(CANARY)
    with KeyClient.connect() as keys:
        pids = (place.pid, keys.status().pid)
    for pid in pids:
        assert core_limit(pid) == ["0", "0"]
    directories = [
        Path("/"),
        place.base,
        Path.cwd(),
        *(Path(os.readlink(f"/proc/{pid}/cwd")) for pid in pids),
    ]
    before = cores(*directories)
    for pid in pids:
        pidfd = os.pidfd_open(pid)
        signal.pidfd_send_signal(pidfd, number)
        await_end(pidfd)
        os.close(pidfd)
    assert cores(*directories) == before
    assert cages(place.datastore) == []
