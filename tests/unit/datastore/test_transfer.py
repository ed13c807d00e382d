"""VMs in and out: what arrives is what was sent, encrypted at once; what is refused leaves nothing behind."""

import hashlib
import io
import os
import shutil
import signal
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ioflt.datastore import check, newhome, transfer, tree
from ioflt.datastore.tree import HomeSide
from ioflt.datastore.volume import Volume
from ioflt.errors import (
    BusyError,
    CorruptDataError,
    ExistsError,
    IofltError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
    UnsupportedError,
    UsageError,
)
from ioflt.format.ovf import writer
from ioflt.format.ovf.model import Attachment, Controller, Disk, Envelope, File, Hardware
from ioflt.format.vmdk import descriptor
from ioflt.format.vmdk.compose import compose
from ioflt.format.vmdk.stream import StreamWriter
from ioflt.testing.local_keys import LocalKeys
from ioflt.types import HomeState

REAL = Path("/usr/share/gocode/src/github.com/vmware/photon-controller-go-sdk/testdata/tty_tiny.ova")
MIB = 1 << 20
CANARY = b"A canary that no reader of the datastore may see. "
CONTENT = CANARY.ljust(70_000, b"c") + bytes(2 * MIB) + CANARY


@pytest.fixture
def volume(ioflt_home: Path, tmp_path: Path) -> Iterator[Volume]:
    with LocalKeys(ioflt_home) as keys:
        Volume.init(tmp_path / "ds", HomeState.ENCRYPTED, keys)
        with Volume.open(tmp_path / "ds", keys) as opened:
            yield opened


@pytest.fixture
def clear(ioflt_home: Path, tmp_path: Path) -> Iterator[Volume]:
    with LocalKeys(ioflt_home) as keys:
        Volume.init(tmp_path / "clear", HomeState.CLEAR, keys)
        with Volume.open(tmp_path / "clear", keys) as opened:
            yield opened


def content(volume: Volume, home: str, name: str) -> bytes:
    """A file of a home, decrypted."""
    where = volume.home(home)
    with tree.opened(HomeSide(where), where.fd, name) as file:
        return bytes(file.read(0, file.length))


def put(volume: Volume, home: str, name: str, data: bytes) -> None:
    where = volume.home(home)
    with tree.created(HomeSide(where), where.fd, name) as file:
        file.write(0, data)


def stream(data: bytes, capacity: int = 4 * MIB, text: bytes | None = None) -> bytes:
    made = StreamWriter(
        capacity, text or compose("streamOptimized", capacity=capacity, file_name="d.vmdk", cid=7)
    )
    return b"".join((made.start(), made.write(0, data), made.finish()))


def envelope(*files: File, capacity: int = 4 * MIB, chunk: int | None = None) -> bytes:
    disks = tuple(Disk(f"vmdisk{n}", file.id, capacity, "") for n, file in enumerate(files))
    hardware = Hardware(
        2,
        512,
        (Controller("3", "scsi", 0, "lsilogic"),),
        tuple(Attachment("3", n, disk.id) for n, disk in enumerate(disks)),
    )
    return writer.write(Envelope("web", files, disks, hardware))


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info.tobuf(tarfile.GNU_FORMAT) + data.ljust(-(-len(data) // 512) * 512, b"\0")


def manifest(**members: bytes) -> bytes:
    lines = (f"SHA256({name})= {hashlib.sha256(data).hexdigest()}\n" for name, data in members.items())
    return "".join(lines).encode()


def archive(path: Path, *members: bytes) -> Path:
    path.write_bytes(b"".join(members) + bytes(1024))
    return path


DISK = stream(CONTENT)
OVF = envelope(File("file1", "d.vmdk", len(DISK)))


def ova(tmp_path: Path) -> Path:
    mf = manifest(**{"web.ovf": OVF, "d.vmdk": DISK})
    return archive(tmp_path / "web.ova", member("web.ovf", OVF), member("web.mf", mf), member("d.vmdk", DISK))


def assert_nowhere(needle: bytes, top: Path) -> None:
    for path in top.rglob("*"):
        if path.is_file():
            assert needle not in path.read_bytes(), path


def assert_empty(volume: Volume) -> None:
    """No home is there, nor a part of one."""
    assert {path.name for path in Path(volume.path).rglob("*")} <= {".ioflt", ".ioflt.d"}


# In


def test_an_ova_becomes_what_esxi_makes_of_it(volume: Volume, tmp_path: Path) -> None:
    seen: list[int] = []
    made = transfer.import_package(volume, ova(tmp_path), "vm1", seen.append)
    assert (made.home, made.state, made.left_out) == ("vm1", "encrypted", [])
    assert made.files == ["vm1-flat.vmdk", "vm1.vmdk", "vm1.vmx"]
    assert sum(seen) == len(DISK)
    assert content(volume, "vm1", "vm1-flat.vmdk") == CONTENT.ljust(4 * MIB, b"\0")
    text = descriptor.parse(content(volume, "vm1", "vm1.vmdk"), "vm1.vmdk")
    assert (text.create_type, text.sectors, text.file_names) == ("vmfs", 8192, ("vm1-flat.vmdk",))
    assert b'scsi0:0.fileName = "vm1.vmdk"' in content(volume, "vm1", "vm1.vmx")
    assert_nowhere(CANARY, Path(volume.path))
    flat = Path(volume.path, "vm1", "vm1-flat.vmdk").stat()
    assert flat.st_size == 5 * MIB
    assert flat.st_blocks * 512 < MIB  # grains of zeros stayed holes


def test_the_name_is_that_of_the_file(volume: Volume, tmp_path: Path) -> None:
    assert transfer.import_package(volume, ova(tmp_path)).home == "web"


def test_a_clear_datastore_gets_a_clear_vm(clear: Volume, tmp_path: Path) -> None:
    assert transfer.import_package(clear, ova(tmp_path)).state == "clear"
    assert Path(clear.path, "web/web-flat.vmdk").read_bytes() == CONTENT.ljust(4 * MIB, b"\0")


def test_chunks_are_joined(volume: Volume, tmp_path: Path) -> None:
    pieces = [DISK[start : start + 1000] for start in range(0, len(DISK), 1000)]
    names = [f"d.vmdk.{number:09}" for number in range(len(pieces))]
    text = envelope(File("file1", "d.vmdk", len(DISK), 1000))
    listed = dict(zip(names, pieces, strict=True)) | {"d.vmdk": DISK, "web.ovf": text}
    parts = map(member, names, pieces)
    path = archive(
        tmp_path / "web.ova", member("web.ovf", text), member("web.mf", manifest(**listed)), *parts
    )
    transfer.import_package(volume, path)
    assert content(volume, "web", "web-flat.vmdk").startswith(CONTENT)


def test_an_ovf_with_its_files_beside_it(volume: Volume, tmp_path: Path) -> None:
    (tmp_path / "web.ovf").write_bytes(OVF)
    (tmp_path / "d.vmdk").write_bytes(DISK)
    (tmp_path / "web.mf").write_bytes(manifest(**{"d.vmdk": DISK}))
    transfer.import_package(volume, tmp_path / "web.ovf")
    assert content(volume, "web", "web-flat.vmdk").startswith(CONTENT)
    (tmp_path / "d.vmdk").rename(tmp_path / "elsewhere")
    (tmp_path / "d.vmdk").symlink_to("elsewhere")
    with pytest.raises(IofltError):
        transfer.import_package(volume, tmp_path / "web.ovf", "web2")
    assert volume.homes() == ["web"]


def test_other_formats_empty_disks_and_other_files(volume: Volume, tmp_path: Path) -> None:
    qcow2 = b"QFI\xfb" + bytes(1000)
    files = (File("file1", "a.qcow2"), File("file2", "d.vmx"), File("file3", "nvram"))
    disks = (Disk("d1", "file1", MIB, ""), Disk("d2", "file2", MIB, ""), Disk("d3", None, 1000, ""))
    attachments = tuple(Attachment("3", n, disk.id) for n, disk in enumerate(disks))
    hardware = Hardware(1, 64, (Controller("3", "scsi", 0),), attachments)
    text = writer.write(Envelope("", files, disks, hardware))
    members = (member("a.qcow2", qcow2), member("d.vmx", b"raw"), member("nvram", b"n"))
    made = transfer.import_package(volume, archive(tmp_path / "x.ova", member("x.ovf", text), *members))
    assert made.files == ["x.qcow2", "x.vmx", "x_1.img", "x_2-flat.vmdk", "x_2.vmdk"]
    assert made.left_out == ["nvram"]
    assert content(volume, "x", "x.qcow2") == qcow2
    assert content(volume, "x", "x_1.img") == b"raw"
    assert content(volume, "x", "x_2-flat.vmdk") == bytes(1024)


@pytest.mark.skipif(not REAL.exists(), reason="the real export is not installed")
def test_a_real_export(volume: Volume, tmp_path: Path) -> None:
    transfer.import_package(volume, REAL)
    flat = content(volume, "tty_tiny", "tty_tiny-flat.vmdk")
    assert len(flat) == 15 * MIB
    assert flat[510:512] == b"\x55\xaa"
    transfer.export_ova(volume, "tty_tiny", tmp_path / "out.ova")
    transfer.import_package(volume, tmp_path / "out.ova")
    assert content(volume, "out", "out-flat.vmdk") == flat


def test_names_that_exist_or_are_none(volume: Volume, tmp_path: Path) -> None:
    transfer.import_package(volume, ova(tmp_path))
    before = content(volume, "web", "web.vmdk")
    with pytest.raises(ExistsError):
        transfer.import_package(volume, tmp_path / "web.ova")
    assert content(volume, "web", "web.vmdk") == before
    for name in ("../x", "a/b", ".", "..", ".ioflt", ".ioflt.d", "a\nb", 'a"b', "x" * 201):
        with pytest.raises(UsageError):
            transfer.import_package(volume, tmp_path / "web.ova", name)
    assert volume.homes() == ["web"]


def test_a_volume_that_is_only_read(volume: Volume, tmp_path: Path) -> None:
    with (
        Volume.open(volume.path, volume.keys, read_only=True) as reading,
        pytest.raises(ReadOnlyError, match="reading only"),
    ):
        transfer.import_package(reading, ova(tmp_path))


# Hostile packages

OVF_MEMBER, DISK_MEMBER = member("web.ovf", OVF), member("d.vmdk", DISK)
BOMB = zlib.compress(bytes(32 * MIB), 9)
BOMB_DISK = DISK[: 128 * 512] + (struct.pack("<QI", 0, len(BOMB)) + BOMB).ljust(1 << 16, b"\0")
LONG_PAX = member("pax", bytes(2 * MIB), tarfile.XHDTYPE)
DELTA = compose("streamOptimized", capacity=4 * MIB, file_name="d.vmdk", cid=7).replace(
    b"parentCID=ffffffff", b"parentCID=00000001"
)


def with_disk(disk: bytes, **extra: int) -> list[bytes]:
    return [member("web.ovf", envelope(File("file1", "d.vmdk"), **extra)), member("d.vmdk", disk)]


def huge_member(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo("d.vmdk")
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("reason", "members"),
    [
        ("member name not confined", [OVF_MEMBER, member("../d.vmdk", DISK)]),
        ("member name not confined", [OVF_MEMBER, member("/etc/passwd", DISK)]),
        ("member name not confined", [OVF_MEMBER, member("a/d.vmdk", DISK)]),
        ("member name not confined", [OVF_MEMBER, member("..\\d.vmdk", DISK)]),
        ("not a regular file", [OVF_MEMBER, member("d.vmdk", b"", tarfile.SYMTYPE, "/etc/passwd")]),
        ("not a regular file", [OVF_MEMBER, member("d.vmdk", b"", tarfile.LNKTYPE, "web.ovf")]),
        ("not a regular file", [OVF_MEMBER, member("d.vmdk", b"", tarfile.BLKTYPE)]),
        ("not a regular file", [OVF_MEMBER, member("d.vmdk", b"", tarfile.FIFOTYPE)]),
        ("not a regular file", [OVF_MEMBER, member("d.vmdk", b"", tarfile.DIRTYPE)]),
        ("duplicate member", [OVF_MEMBER, DISK_MEMBER, DISK_MEMBER]),
        ("file missing", [OVF_MEMBER]),
        ("no envelope", [DISK_MEMBER]),
        ("no envelope", []),
        ("more than one envelope", [OVF_MEMBER, member("b.ovf", OVF), DISK_MEMBER]),
        ("size differs", [OVF_MEMBER, member("d.vmdk", DISK[:-1])]),
        ("truncated", [OVF_MEMBER, huge_member(1 << 40)]),
        ("truncated", [OVF_MEMBER, huge_member(1 << 62)]),
        ("too large", [member("web.ovf", bytes((2 << 20) + 1)), DISK_MEMBER]),
        ("bad XML", [member("web.ovf", b"<"), DISK_MEMBER]),
        ("bad archive", [b"x" * 1024]),
        ("bad archive", [LONG_PAX, DISK_MEMBER]),
        ("bad archive", [huge_member(-1024, tarfile.XHDTYPE), DISK_MEMBER]),
        ("bad archive", [huge_member(-1024, tarfile.GNUTYPE_LONGNAME), DISK_MEMBER]),
        ("digest does not verify", [OVF_MEMBER, member("web.mf", manifest(**{"d.vmdk": b""})), DISK_MEMBER]),
        (
            "digest does not verify",
            [OVF_MEMBER, member("web.mf", manifest(**{"d.vmdk": DISK, "web.ovf": b""})), DISK_MEMBER],
        ),
        ("file not in manifest", [OVF_MEMBER, member("web.mf", manifest(**{"web.ovf": OVF})), DISK_MEMBER]),
        (
            "listed file missing",
            [OVF_MEMBER, member("web.mf", manifest(**{"d.vmdk": DISK, "x": b""})), DISK_MEMBER],
        ),
        ("odd line", [OVF_MEMBER, member("web.mf", b"what?"), DISK_MEMBER]),
        ("truncated", with_disk(b"")),
        ("truncated", with_disk(DISK[:-512])),
        ("truncated", with_disk(DISK[:100])),
        ("bad grain size", with_disk(BOMB_DISK)),
        ("capacity differs", with_disk(DISK, capacity=2 * MIB)),
        ("compressed file", with_disk(b"\x1f\x8b" + bytes(100))),
        ("has a parent", with_disk(stream(b"x", text=DELTA))),
        (
            "read twice",
            [member("web.ovf", envelope(File("f1", "d.vmdk"), File("f2", "d.vmdk"))), DISK_MEMBER],
        ),
    ],
)
def test_a_hostile_package_leaves_nothing(
    volume: Volume, tmp_path: Path, reason: str, members: list[bytes]
) -> None:
    path = archive(tmp_path / "web.ova", *members)
    with pytest.raises(CorruptDataError) as caught:
        transfer.import_package(volume, path)
    assert caught.value.reason == reason
    assert_empty(volume)
    with pytest.raises(NotFoundError):
        volume.home("web")


def test_not_an_archive_at_all(volume: Volume, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "web.ova")
    with pytest.raises(CorruptDataError, match="not a regular file"):
        transfer.import_package(volume, tmp_path / "web.ova")
    with pytest.raises(FileNotFoundError):
        transfer.import_package(volume, tmp_path / "none.ova")


def test_a_disk_larger_than_any_file_system(volume: Volume, tmp_path: Path) -> None:
    members = with_disk(DISK, capacity=(1 << 63) - 512)
    with pytest.raises(StorageError):
        transfer.import_package(volume, archive(tmp_path / "web.ova", *members))
    assert_empty(volume)


# Directories


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    top = tmp_path / "guest"
    (top / "logs").mkdir(parents=True)
    (top / "guest.vmx").write_bytes(b'displayName = "g"\n')
    with (top / "guest-flat.vmdk").open("wb") as file:
        file.truncate(8 * MIB + 5)
        file.seek(4 * MIB)
        file.write(CANARY)
    (top / "logs" / "vmware.log").write_bytes(CANARY)
    (top / "logs" / "last").symlink_to("../logs/vmware.log")
    (top / "empty.nvram").touch(0o600)
    for path in (top / "guest-flat.vmdk", top / "guest.vmx", top / "logs" / "vmware.log", top / "logs", top):
        path.chmod(0o750 if path.is_dir() else 0o640)
        os.utime(path, ns=(10**18 + 7, 10**18 + 9))
    return top


def assert_same_tree(one: Path, other: Path) -> None:
    names = sorted(path.relative_to(one) for path in one.rglob("*"))
    assert names == sorted(path.relative_to(other) for path in other.rglob("*"))
    for name in names:
        left, right = one / name, other / name
        if left.is_symlink():
            assert left.readlink() == right.readlink()
            continue
        assert (left.stat().st_mode, left.stat().st_mtime_ns) == (
            right.stat().st_mode,
            right.stat().st_mtime_ns,
        )
        if left.is_file():
            assert left.read_bytes() == right.read_bytes()


def test_a_directory_comes_back_as_it_went(volume: Volume, directory: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    made = transfer.import_directory(volume, directory, progress=seen.append)
    assert made.files == ["empty.nvram", "guest-flat.vmdk", "guest.vmx", "logs"]
    assert sum(seen) == 8 * MIB + 5 + len(CANARY) + len((directory / "guest.vmx").read_bytes())
    assert_nowhere(CANARY, Path(volume.path))
    assert Path(volume.path, "guest/guest-flat.vmdk").stat().st_blocks * 512 < 2 * MIB
    home = Path(volume.path, "guest").stat()
    assert (home.st_mode & 0o777, home.st_mtime_ns) == (0o750, 10**18 + 9)
    stored = Path(volume.path, "guest/guest.vmx").stat()
    assert (stored.st_mode & 0o777, stored.st_mtime_ns) == (0o640, 10**18 + 9)
    out = transfer.export_directory(volume, "guest", tmp_path / "back")
    assert out.files == ["empty.nvram", "guest-flat.vmdk", "guest.vmx", "logs/vmware.log"]
    assert_same_tree(directory, tmp_path / "back")
    assert (tmp_path / "back" / "guest-flat.vmdk").stat().st_blocks * 512 < MIB


@pytest.mark.parametrize("target", ["/etc/passwd", "../../x", "../guest/../../x", "a/../../x"])
def test_a_symlink_that_leads_out(volume: Volume, directory: Path, target: str) -> None:
    (directory / "logs" / "bad").symlink_to(target)
    with pytest.raises(UnsupportedError, match="symlink leads out"):
        transfer.import_directory(volume, directory)
    assert volume.homes() == []


def test_special_files_and_homes_are_refused(volume: Volume, directory: Path, tmp_path: Path) -> None:
    os.mkfifo(directory / "logs" / "pipe")
    with pytest.raises(UnsupportedError, match=r"logs/pipe: not a regular file"):
        transfer.import_directory(volume, directory)
    assert volume.homes() == []
    transfer.import_package(volume, ova(tmp_path))
    with pytest.raises(UsageError, match="belongs to a datastore"):
        transfer.import_directory(volume, Path(volume.path, "web"), "again")
    with pytest.raises(UsageError, match="holds the datastore"):
        transfer.import_directory(volume, tmp_path)
    deep = directory / "/".join("d" * 40)
    (directory / "logs" / "pipe").unlink()
    deep.mkdir(parents=True)
    with pytest.raises(UnsupportedError, match="too deep"):
        transfer.import_directory(volume, directory)
    assert volume.homes() == ["web"]


def killed_at(step: int, run: Callable[[], object]) -> bool:
    """Run it in a process that is killed as it opens its `step`th file or directory; whether it was."""
    pid = os.fork()
    if pid == 0:
        steps = 0
        really = os.open

        def counted(*arguments: Any, **named: Any) -> int:
            nonlocal steps
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return really(*arguments, **named)

        os.open = counted
        run()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("package", [True, False], ids=["package", "directory"])
def test_killed_on_the_way_in(volume: Volume, directory: Path, tmp_path: Path, package: bool) -> None:
    """No half VM passes for a whole one, or stands in the way of the next attempt."""

    def bring_in() -> None:
        if package:
            transfer.import_package(volume, tmp_path / "guest.ova")
        else:
            transfer.import_directory(volume, directory)

    ova(tmp_path).rename(tmp_path / "guest.ova")
    step = 1
    while killed_at(step, bring_in):
        assert volume.homes() in ([], ["guest"])
        if volume.homes():
            assert "guest.vmx" in os.listdir(Path(volume.path, "guest"))
            volume.forget(volume.home("guest"))
            shutil.rmtree(Path(volume.path, "guest"))
        step += 1
    assert step > 12
    volume.forget(volume.home("guest"))
    assert os.listdir(Path(volume.path, ".ioflt.d")) == []
    assert {entry.finding for entry in check.run(volume.path, volume.keys).entries} == {None}


@pytest.mark.allow_log("left over, and cannot be removed, .ioflt.d/home-link")
def test_a_mount_removes_what_a_killed_import_left(volume: Volume, directory: Path) -> None:
    assert killed_at(12, lambda: transfer.import_directory(volume, directory))
    drafts = Path(volume.path, ".ioflt.d")
    (left,) = os.listdir(drafts)
    (drafts / "home-link").symlink_to(directory)
    with newhome.new_home(volume, "now"):  # removes it; itself it is in use
        assert left not in os.listdir(drafts)
        newhome.remove_unfinished(volume.fd)
    assert volume.homes() == ["now"]
    assert os.listdir(drafts) == ["home-link"]
    assert os.listdir(directory)


# Out


def make_vm(volume: Volume, files: dict[str, bytes], name: str = "vm") -> None:
    volume.make_home(name, 0o755)
    for file, data in files.items():
        put(volume, name, file, data)


def vmx(*disks: str) -> bytes:
    lines = [f'scsi0:{number}.fileName = "{disk}"\n' for number, disk in enumerate(disks)]
    return ('displayName = "w"\nscsi0.present = "TRUE"\n' + "".join(lines)).encode()


def text(create_type: str, *extents: str) -> bytes:
    head = f'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="{create_type}"\n'
    return (head + "\n".join(extents) + "\n").encode()


def test_an_export_is_an_ova(volume: Volume, tmp_path: Path) -> None:
    transfer.import_package(volume, ova(tmp_path))
    seen: list[int] = []
    made = transfer.export_ova(volume, "web", tmp_path / "out.ova", seen.append)
    assert made.files == ["web.ovf", "web.mf", "web-disk1.vmdk"]
    assert sum(seen) >= len(CONTENT) - 2 * MIB
    assert (tmp_path / "out.ova").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ds", "out.ova", "web.ova"]
    with tarfile.open(tmp_path / "out.ova") as packed:
        assert packed.getnames() == made.files
        parts = {name: packed.extractfile(name).read() for name in made.files}  # type: ignore[union-attr]
    listed = parts.pop("web.mf").decode()
    for name, data in parts.items():
        assert f"SHA256({name})= {hashlib.sha256(data).hexdigest()}\n" in listed
    assert f'ovf:size="{len(parts["web-disk1.vmdk"])}"'.encode() in parts["web.ovf"]
    transfer.import_package(volume, tmp_path / "out.ova")
    assert content(volume, "out", "out-flat.vmdk") == content(volume, "web", "web-flat.vmdk")


def test_extents_of_all_kinds(volume: Volume, tmp_path: Path) -> None:
    """Two flat extents, one with an offset and an odd size, zeros, a disk that is a stream already."""
    flat = text("twoGbMaxExtentFlat", 'RW 3 FLAT "a.vmdk" 1', "RW 300 ZERO", 'RW 5 FLAT "b.vmdk" 0')
    files = {"s.vmdk": DISK, "f.vmdk": flat, "a.vmdk": bytes(512) + b"a" * 1536, "b.vmdk": b"b" * 2560}
    make_vm(volume, files | {"vm.vmx": vmx("f.vmdk", "s.vmdk")})
    transfer.export_ova(volume, "vm", tmp_path / "vm.ova")
    transfer.import_package(volume, tmp_path / "vm.ova", "back")
    assert content(volume, "back", "back-flat.vmdk") == b"a" * 1536 + bytes(300 * 512) + b"b" * 2560
    assert content(volume, "back", "back_1-flat.vmdk") == CONTENT.ljust(4 * MIB, b"\0")


@pytest.mark.parametrize(
    ("reason", "files"),
    [
        (
            "has a parent",
            {"d.vmdk": text("vmfs", "RW 1 ZERO").replace(b"parentCID=ffffffff", b"parentCID=2")},
        ),
        ("has a parent", {"d.vmdk": text("vmfs", "RW 1 ZERO", 'parentFileNameHint="p.vmdk"')}),
        ("unknown disk format", {"d.vmdk": b"QFI\xfb" + bytes(100)}),
        ("bad magic", {"d.vmdk": text("vmfsSparse", 'RW 1 VMFSSPARSE "a"'), "a": b""}),
        ("no such file", {}),
        ("no such file", {"d.vmdk": text("vmfs", 'RW 2 VMFS "a"')}),
        ("extent truncated", {"d.vmdk": text("vmfs", 'RW 2 VMFS "a"'), "a": bytes(1023)}),
        ("bad magic", {"d.vmdk": text("twoGbMaxExtentSparse", 'RW 2 SPARSE "a"'), "a": bytes(512)}),
        ("capacity differs", {"d.vmdk": text("twoGbMaxExtentSparse", 'RW 2 SPARSE "a"'), "a": DISK}),
        ("extent name not confined", {"d.vmdk": text("vmfs", 'RW 1 VMFS "../../etc/shadow"')}),
        ("extent name not confined", {"d.vmdk": text("vmfs", 'RW 1 VMFS "d.vmdk"')}),
        ("disk name not confined", {"vm.vmx": vmx("/etc/shadow")}),
        ("one disk attached twice", {"vm.vmx": vmx("d.vmdk", "d.vmdk")}),
    ],
)
def test_what_an_ova_cannot_have(
    volume: Volume, tmp_path: Path, reason: str, files: dict[str, bytes]
) -> None:
    make_vm(volume, {"vm.vmx": vmx("d.vmdk")} | files)
    with pytest.raises(CorruptDataError) as caught:
        transfer.export_ova(volume, "vm", tmp_path / "out.ova")
    assert caught.value.reason == reason
    assert os.listdir(tmp_path) == ["ds"]
    assert transfer.export_directory(volume, "vm", tmp_path / "out").files  # a copy has it


def test_an_extent_that_is_a_symlink(volume: Volume, tmp_path: Path) -> None:
    make_vm(volume, {"vm.vmx": vmx("d.vmdk"), "d.vmdk": text("vmfs", 'RW 1 VMFS "a"')})
    Path(volume.path, "vm", "a").symlink_to("/etc/shadow")
    with pytest.raises(CorruptDataError, match="a: no such file"):
        transfer.export_ova(volume, "vm", tmp_path / "out.ova")
    with pytest.raises(UnsupportedError, match="symlink leads out"):
        transfer.export_directory(volume, "vm", tmp_path / "out")
    assert os.listdir(tmp_path) == ["ds"]


def test_where_an_export_may_go(volume: Volume, tmp_path: Path) -> None:
    transfer.import_package(volume, ova(tmp_path))
    (tmp_path / "there.ova").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(volume.path)
    for write in (transfer.export_ova, transfer.export_directory):
        with pytest.raises(ExistsError):
            write(volume, "web", tmp_path / "there.ova")
        for inside in ("x.ova", "web/x.ova"):
            with pytest.raises(UsageError, match="plaintext"):
                write(volume, "web", Path(volume.path, inside))
        with pytest.raises(UsageError, match="plaintext"):
            write(volume, "web", tmp_path / "link" / "x.ova")
        with pytest.raises(NotFoundError):
            write(volume, "none", tmp_path / "x.ova")
        with pytest.raises(FileNotFoundError):
            write(volume, "web", tmp_path / "none" / "x.ova")
    assert (tmp_path / "there.ova").read_bytes() == b"mine"
    assert sorted(os.listdir(Path(volume.path))) == [".ioflt", ".ioflt.d", "web"]


def test_a_vm_in_use_is_not_exported(volume: Volume, tmp_path: Path) -> None:
    transfer.import_package(volume, ova(tmp_path))
    home = volume.home("web")
    home.enter()
    try:
        for write in (transfer.export_ova, transfer.export_directory):
            with pytest.raises(BusyError):
                write(volume, "web", tmp_path / "x.ova")
    finally:
        home.leave()
    assert not (tmp_path / "x.ova").exists()


def test_which_vmx(volume: Volume, tmp_path: Path) -> None:
    make_vm(volume, {"a.vmx": vmx(), "b.vmx": vmx()})
    with pytest.raises(NotFoundError, match=r"more than one \.vmx"):
        transfer.export_ova(volume, "vm", tmp_path / "x.ova")
    put(volume, "vm", "vm.vmx", vmx())
    transfer.export_ova(volume, "vm", tmp_path / "x.ova")
    make_vm(volume, {}, "none")
    with pytest.raises(NotFoundError, match=r"no \.vmx"):
        transfer.export_ova(volume, "none", tmp_path / "y.ova")


def test_many_members_are_too_many(volume: Volume, tmp_path: Path) -> None:
    data = io.BytesIO()
    for number in range(10_001):
        data.write(tarfile.TarInfo(str(number)).tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(CorruptDataError, match="too many members"):
        transfer.import_package(volume, archive(tmp_path / "x.ova", data.getvalue()))
