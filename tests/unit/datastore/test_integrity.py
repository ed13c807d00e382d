"""VMs with integrity: what is changed behind the mount's back is found, whatever was done to the VM."""

import os
import random
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ioflt import syscalls
from ioflt.datastore import (
    check,
    clone,
    extend,
    files,
    lifecycle,
    move,
    namespace,
    reach,
    recovery,
    recrypt,
    regular,
    tagfiles,
    tree,
)
from ioflt.datastore.container import Container
from ioflt.datastore.deep import home as deep
from ioflt.datastore.header import read_header
from ioflt.datastore.standing import Treatment, stored_as
from ioflt.datastore.volume import Volume
from ioflt.errors import CrossHomeError, IntegrityError, UsageError
from ioflt.filters import patience
from ioflt.format.luks2 import tags
from ioflt.format.luks2.layout import DATA_OFFSET, STATE_SLOT_OFFSETS
from ioflt.types import HomeState
from tests.small_areas import small_areas
from tests.waiting import PATIENCE_S

PAGE = 4096
BODY = random.Random(3).randbytes(40 * PAGE)
DESCRIPTOR = b"""# Disk DescriptorFile
version=1
CID=0000abcd
parentCID=ffffffff
createType="monolithicFlat"
RW 640 FLAT "disk-flat.vmdk" 0
"""

pytestmark = pytest.mark.allow_log("not verify")


@pytest.fixture(autouse=True)
def _areas(monkeypatch: pytest.MonkeyPatch) -> None:
    small_areas(monkeypatch)


@pytest.fixture
def default() -> HomeState:
    return HomeState.CLEAR


@pytest.fixture
def vm(volume: Volume, directory: Path) -> Path:
    """A VM with integrity: a disk with a hole, its descriptor, a VMX, a log with two names, an empty file."""
    volume.make_home("web", 0o755)
    top = directory / "web"
    with (top / "disk-flat.vmdk").open("wb") as file:
        file.write(BODY[: 20 * PAGE])
        file.seek(60 * PAGE)
        file.write(BODY[20 * PAGE :])
    (top / "disk.vmdk").write_bytes(DESCRIPTOR)
    (top / "web.vmx").write_bytes(b'displayName = "web"\n')
    (top / "log").write_bytes(b"a line\n" * 999)
    (top / "empty").touch()
    os.mkdir(top / "below")
    os.link(top / "log", top / "below" / "twin")
    lifecycle.encrypt(volume, "web", integrity=True)
    return top


PLAIN = BODY[: 20 * PAGE] + bytes(40 * PAGE) + BODY[20 * PAGE :]


def read(volume: Volume, path: str, name: str = "web") -> bytes:
    home = volume.home(name)
    with regular.parent(home, path) as (dir_fd, last):
        fd = files.open_regular(dir_fd, last, os.O_RDONLY)
    file = files.open_file(home, fd, home.treatment(path, fd), writable=False, place=lambda: None, name=path)
    try:
        return b"".join(bytes(file.read(at, 9 * PAGE)) for at in range(0, file.length, 9 * PAGE))
    finally:
        file.close()


def all_read(volume: Volume, name: str = "web") -> None:
    assert read(volume, "disk-flat.vmdk", name) == PLAIN
    assert read(volume, "disk.vmdk", name) == DESCRIPTOR
    assert read(volume, "log", name) == read(volume, "below/twin", name) == b"a line\n" * 999
    assert read(volume, "empty", name) == b""
    assert b"web" in read(volume, "web.vmx", name)


def flip(path: Path, sector: int, bit: int = 5) -> None:
    with path.open("r+b") as file:
        file.seek(DATA_OFFSET + sector * PAGE)
        changed = bytearray(file.read(PAGE))
        changed[bit // 8] ^= 1 << bit % 8
        file.seek(DATA_OFFSET + sector * PAGE)
        file.write(changed)


def bad(directory: Path, keys: object, vm: str | None = "web") -> dict[str, tuple[tuple[int, int], ...]]:
    report = check.run(directory, keys, vm=vm, data=True)
    assert all(entry.finding for entry in report.entries if entry.bad)
    return {entry.path: entry.bad for entry in report.entries if entry.finding is not None}


def sidecars(top: Path) -> set[str]:
    return {one.name for one in (top / ".ioflt.d").glob("*.tags")}


def wanted_sidecars(top: Path) -> set[str]:
    found = set()
    for one in top.rglob("*"):
        if one.is_file() and ".ioflt" not in str(one.relative_to(top)) and one.suffix != ".vmx":
            with one.open("rb") as file:
                found.add(read_header(file.fileno()).uuid + tags.SUFFIX)
    return found


def test_a_vm_with_integrity(volume, vm, directory, keys):
    assert volume.home("web").standing().integrity
    assert sidecars(vm) == wanted_sidecars(vm)
    assert len(sidecars(vm)) == 4
    all_read(volume)
    assert bad(directory, keys) == {}
    assert check.place(vm) == (str(directory), "web")
    assert check.place(directory) == (str(directory), None)


def test_a_changed_sector_and_no_other(volume, vm, directory, keys, caplog):
    flip(vm / "disk-flat.vmdk", 7)
    assert bad(directory, keys) == {"web/disk-flat.vmdk": ((7, 1),)}
    with pytest.raises(IntegrityError, match="sector 7 does not verify"):
        read(volume, "disk-flat.vmdk")
    assert "disk-flat.vmdk: sector 7 does not verify" in caplog.text
    home = volume.home("web")
    fd = os.open(vm / "disk-flat.vmdk", os.O_RDWR)
    file = files.open_file(home, fd, Treatment.CONTAINER, writable=True, place=lambda: None)
    assert bytes(file.read(0, 7 * PAGE)) == PLAIN[: 7 * PAGE]
    assert bytes(file.read(8 * PAGE, 9 * PAGE)) == PLAIN[8 * PAGE : 17 * PAGE]
    with pytest.raises(IntegrityError):  # what stands beside it in the sector would be lost
        file.write(7 * PAGE + 5, b"x")
    file.write(7 * PAGE, b"y" * PAGE)
    assert bytes(file.read(7 * PAGE, PAGE)) == b"y" * PAGE
    file.flush()
    file.close()
    assert bad(directory, keys) == {}


@pytest.mark.parametrize("name", ["disk-flat.vmdk", "disk.vmdk"])
def test_what_a_check_reads_anyway_has_to_verify(volume, vm, directory, keys, name):
    """A check looks for a descriptor in each file that may be one, without reading all data."""
    flip(vm / name, 0)
    found = {one.path: one.finding for one in check.run(directory, keys, vm="web").entries if one.finding}
    assert found == {f"web/{name}": "changed data (sector 0 does not verify)"}
    assert bad(directory, keys) == {f"web/{name}": ((0, 1),)}


@pytest.mark.disk
def test_read_ahead(volume, vm, directory):
    """What another thread made tags of is verified as all else; what was given up is read anew."""
    home = volume.home("web")
    fd = os.open(vm / "disk-flat.vmdk", os.O_RDWR)
    file = files.open_file(home, fd, Treatment.CONTAINER, writable=True, place=lambda: None, name="disk")
    assert isinstance(file, Container)
    length = file.length
    for offset, size in ((0, length), (PAGE + 7, 9 * PAGE), (length - 5, 100), (length, 9)):
        with file.ahead(offset, size), file.ahead(0, PAGE), file.ahead(0, PAGE):
            assert bytes(file.read(0, PAGE, nowait=True)) == PLAIN[:PAGE]
            assert bytes(file.read(0, PAGE, nowait=True)) == PLAIN[:PAGE]
            assert bytes(file.read(offset, size, nowait=True)) == PLAIN[offset : offset + size]
    with file.ahead(0, length):  # given up
        pass
    file.write(PAGE, b"changed")
    assert bytes(file.read(0, length, nowait=True)) == PLAIN[:PAGE] + b"changed" + PLAIN[PAGE + 7 :]
    file.flush()
    stored = directory / "web" / "disk-flat.vmdk"
    with stored.open("r+b") as raw:
        raw.seek(DATA_OFFSET + 3 * PAGE + 9)
        raw.write(b"x")
    with file.ahead(0, length), pytest.raises(BlockingIOError):
        file.read(0, length, nowait=True)
    with pytest.raises(IntegrityError):
        file.read(0, length)
    file.close()


def test_a_read_while_its_area_gets_its_first_tags(volume, vm, monkeypatch):
    """Between its looks at the tags and at the mark another thread writes to the area's other sector."""
    home = volume.home("web")
    fd = os.open(vm / "disk-flat.vmdk", os.O_RDWR)
    file = files.open_file(home, fd, Treatment.CONTAINER, writable=True, place=lambda: None)
    file.write(0, PLAIN[:PAGE])
    stored = file._tagged._file
    read_tags = stored.read_tags

    def late(first: int, count: int, *, nowait: bool = False) -> bytes:
        before = read_tags(first, count, nowait=nowait)
        patch.setattr(stored, "read_tags", read_tags)
        file.write(31 * PAGE, b"x")
        return before

    with monkeypatch.context() as patch:
        patch.setattr(stored, "read_tags", late)
        assert bytes(file.read(30 * PAGE, PAGE)) == bytes(PAGE)
    assert bytes(file.read(31 * PAGE, 2)) == b"x\0"
    file.close()


@contextmanager
def written_elsewhere(volume: Volume, vm: Path) -> Iterator[tuple[Container, Container]]:
    """The disk as its writer has it, and as somebody else who reads it."""
    fds = [os.open(vm / "disk-flat.vmdk", flags) for flags in (os.O_RDWR, os.O_RDONLY)]
    assert syscalls.try_write_lock(fds[0])
    home = volume.home("web")
    with ExitStack() as opened:
        both = []
        for fd, writable in zip(fds, (True, False), strict=True):
            file = files.open_file(home, fd, Treatment.CONTAINER, writable=writable, place=lambda: None)
            opened.callback(file.close)
            both.append(file)
        yield both[0], both[1]


@pytest.mark.parametrize("how", ["read", "scrub"])
def test_a_writer_that_is_stopped_between_data_and_tag(volume, vm, monkeypatch, how):
    """Whoever reads meanwhile waits, however often he looks, and finds nothing that is not so."""
    monkeypatch.setattr(patience, "PATIENCE_S", PATIENCE_S)
    monkeypatch.setattr(patience, "_LONGEST_PAUSE_S", 0.001)
    data = random.Random(8).randbytes(PAGE)
    stopped, go_on, looks = threading.Event(), threading.Event(), threading.Semaphore(0)
    with written_elsewhere(volume, vm) as (writer, reader), ThreadPoolExecutor(2) as pool:
        writer.write(5 * PAGE, bytes(PAGE))
        stored, looking = writer._tagged._file, reader._tagged._file
        write_tags, load_journal = stored.write_tags, looking.load_journal

        def stop(first: int, tags: bytes) -> None:
            stopped.set()
            assert go_on.wait(PATIENCE_S)
            write_tags(first, tags)

        def look() -> object:
            looks.release()
            return load_journal()

        monkeypatch.setattr(stored, "write_tags", stop)
        monkeypatch.setattr(looking, "load_journal", look)
        writing = pool.submit(writer.write, 5 * PAGE, data)
        assert stopped.wait(PATIENCE_S)
        if how == "read":
            reading = pool.submit(lambda: bytes(reader.read(5 * PAGE, PAGE)))
        else:
            reading = pool.submit(reader.scrub, lambda _: None)
        for _ in range(110):
            assert looks.acquire(timeout=PATIENCE_S)
        go_on.set()
        writing.result()
        assert reading.result() == (data if how == "read" else ())


def test_what_is_changed_while_it_is_written_elsewhere(volume, vm, monkeypatch):
    """In an area that the journal names after some time, once for many sectors; elsewhere at once."""
    monkeypatch.setattr(patience, "PATIENCE_S", 0.5)
    with written_elsewhere(volume, vm) as (writer, reader):
        for sector in (0, 2, 4):
            writer.write(sector * PAGE, PLAIN[sector * PAGE :][:PAGE])
        flip(vm / "disk-flat.vmdk", 17)
        assert reader.scrub(lambda _: None) == ((17, 1),)
        for sector in (0, 2, 3, 4):
            flip(vm / "disk-flat.vmdk", sector)
        assert reader.scrub(lambda _: None) == ((0, 1), (2, 3), (17, 1))


def test_what_is_cut_while_it_is_verified_is_not_missed(volume, vm):
    with written_elsewhere(volume, vm) as (writer, reader):
        writer.truncate(50 * PAGE)
        assert reader.scrub(lambda _: None) == ()


def test_the_log_of_findings_has_an_end(volume, vm, caplog):
    for sector in range(20):
        flip(vm / "disk-flat.vmdk", sector)
    home = volume.home("web")
    fd = os.open(vm / "disk-flat.vmdk", os.O_RDONLY)
    file = files.open_file(home, fd, Treatment.CONTAINER, writable=False, place=lambda: None)
    for _ in range(5):
        for sector in range(20):
            with pytest.raises(IntegrityError):
                file.read(sector * PAGE, 1)
    file.close()
    assert len([one for one in caplog.records if "not verify" in one.getMessage()]) == 20
    assert "nothing more is logged" in caplog.text


class Attacker:
    """Reads and writes sectors and tags as they are stored."""

    def __init__(self, path: Path, top: Path) -> None:
        self.fd = os.open(path, os.O_RDWR)
        with top.joinpath(".ioflt.d", read_header(self.fd).uuid + tags.SUFFIX).open("r+b") as file:
            self.tags = os.dup(file.fileno())
        self.sectors = os.fstat(self.fd).st_size // PAGE - DATA_OFFSET // PAGE

    def get(self, sector: int) -> bytes:
        return os.pread(self.fd, PAGE, DATA_OFFSET + sector * PAGE)

    def put(self, sector: int, data: bytes) -> None:
        os.pwrite(self.fd, data, DATA_OFFSET + sector * PAGE)

    def tag(self, sector: int) -> bytes:
        return os.pread(self.tags, 16, tags.tag_offset(sector))


def written(volume, vm):
    """The disk, of which every sector was written twice, and all of its first version with its tags."""
    home = volume.home("web")
    attacker = Attacker(vm / "disk-flat.vmdk", vm)
    fd = os.open(vm / "disk-flat.vmdk", os.O_RDWR)
    file = files.open_file(home, fd, Treatment.CONTAINER, writable=True, place=lambda: None)
    file.write(0, random.Random(5).randbytes(attacker.sectors * PAGE))
    file.flush()
    old = [(attacker.get(one), attacker.tag(one)) for one in range(attacker.sectors)]
    file.write(0, random.Random(6).randbytes(attacker.sectors * PAGE))
    file.flush()
    file._logged = 20
    return file, attacker, old


def test_ten_thousand_attacks(volume, vm):
    """Flips of one bit, swaps, zeroing, roll-backs of a sector: each is found, in that sector alone."""
    file, attacker, old = written(volume, vm)
    choose = random.Random(7)
    count = attacker.sectors
    found = dict.fromkeys(("flip", "swap", "zero", "rollback", "cut"), 0)
    for number in range(10_000):
        kind = choose.choices(list(found), [70, 10, 10, 9, 1])[0]
        sector, other = choose.sample(range(count), 2)
        before = (
            {one: attacker.get(one) for one in range(count)}
            if kind == "cut"
            else {one: attacker.get(one) for one in (sector, other)}
        )
        hit = {sector}
        if kind == "flip":
            changed = bytearray(before[sector])
            changed[choose.randrange(PAGE)] ^= 1 << choose.randrange(8)
            attacker.put(sector, bytes(changed))
        elif kind == "swap":
            attacker.put(sector, before[other])
            attacker.put(other, before[sector])
            hit = {sector, other}
        elif kind == "zero":
            attacker.put(sector, bytes(PAGE))
        elif kind == "rollback":
            attacker.put(sector, old[sector][0])
        else:
            os.ftruncate(attacker.fd, DATA_OFFSET + sector * PAGE)
            hit = set(range(sector, count))
        for one in hit if number % 100 else range(count):
            if one in hit:
                with pytest.raises(IntegrityError):
                    file.read(one * PAGE, 1)
            else:
                file.read(one * PAGE, 1)
        for one, data in before.items():
            attacker.put(one, data)
        found[kind] += 1
    file.read(0, count * PAGE)
    file.close()
    assert sum(found.values()) == 10_000
    assert min(found.values()) > 50


def test_what_is_not_found(volume, vm):
    """As the SPEC says: a sector that is put back together with its tag, and all of a container likewise."""
    file, attacker, old = written(volume, vm)
    attacker.put(3, old[3][0])
    os.pwrite(attacker.tags, old[3][1], tags.tag_offset(3))
    assert bytes(file.read(3 * PAGE, PAGE)) == random.Random(5).randbytes(4 * PAGE)[3 * PAGE :]
    file.close()


def test_what_is_zeroed_with_its_tag_is_no_hole(volume, vm):
    """Nor with all marks and tags: a hole has a tag, and an area of holes a mark."""
    file, attacker, _old = written(volume, vm)
    area = 2
    for sector in (2 * area, 2 * area + 1):
        attacker.put(sector, bytes(PAGE))
        os.pwrite(attacker.tags, bytes(16), tags.tag_offset(sector))
    os.pwrite(attacker.tags, bytes(16), tags.mark_offset(area))
    other = os.pread(attacker.tags, 16, tags.mark_offset(9))
    for mark in (bytes(16), other):
        os.pwrite(attacker.tags, mark, tags.mark_offset(area))
        with pytest.raises(IntegrityError):
            file.read(4 * PAGE, 1)
        assert file.seek(4 * PAGE, os.SEEK_DATA) == 4 * PAGE
    file.close()


def test_a_hole_is_one_by_its_tag_whatever_the_file_system_says(volume, vm):
    home = volume.home("web")
    path = vm / "disk-flat.vmdk"
    fd = os.open(path, os.O_RDWR)
    file = files.open_file(home, fd, Treatment.CONTAINER, writable=False, place=lambda: None)
    assert file.seek(0, os.SEEK_HOLE) == 20 * PAGE
    assert file.seek(20 * PAGE, os.SEEK_DATA) == 60 * PAGE
    mode = syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_KEEP_SIZE
    syscalls.fallocate(fd, mode, DATA_OFFSET + 4 * PAGE, 4 * PAGE)
    assert file.seek(0, os.SEEK_HOLE) == 20 * PAGE
    assert file.seek(4 * PAGE, os.SEEK_DATA) == 4 * PAGE
    with pytest.raises(IntegrityError):
        file.read(5 * PAGE, 1)
    file.close()


def test_a_body_that_was_cut(volume, vm, directory, keys):
    path = vm / "disk-flat.vmdk"
    os.truncate(path, DATA_OFFSET + 62 * PAGE)
    assert bad(directory, keys)["web/disk-flat.vmdk"] == ()  # told of as what it is
    with pytest.raises(IntegrityError, match="sector"):
        read(volume, "disk-flat.vmdk")
    home = volume.home("web")
    file = files.open_file(
        home, os.open(path, os.O_RDWR), Treatment.CONTAINER, writable=True, place=lambda: None
    )
    assert file.length == len(PLAIN)
    file.write(len(PLAIN), b"more")  # the writer goes on; what was cut off stays lost, and told of
    assert bytes(file.read(len(PLAIN), 4)) == b"more"
    for sector in range(62, 80):
        with pytest.raises(IntegrityError):
            file.read(sector * PAGE, 1)
    file.flush()
    assert file.scrub(lambda _: None) == ((62, 18),)
    file.close()


def test_no_tags_and_foreign_tags(volume, vm):
    sides = {
        name: vm / ".ioflt.d" / (tagfiles.uuid_of(os.open(vm / name, os.O_RDONLY)) + tags.SUFFIX)
        for name in ("disk-flat.vmdk", "log")
    }
    kept = sides["log"].read_bytes()
    sides["log"].write_bytes(sides["disk-flat.vmdk"].read_bytes())
    with pytest.raises(IntegrityError, match="tags not of this container"):
        read(volume, "log")
    sides["log"].unlink()
    with pytest.raises(IntegrityError, match=r"no tags .*missing"):
        read(volume, "log")
    sides["log"].write_bytes(b"")
    with pytest.raises(IntegrityError, match="tags not of this container"):
        read(volume, "log")
    sides["log"].write_bytes(kept)
    all_read(volume)


def test_a_file_from_before_it_had_tags_is_refused(volume, vm, directory, keys):
    lifecycle.decrypt(volume, "web")
    assert sidecars(vm) == set()
    assert (vm / "disk-flat.vmdk").read_bytes() == PLAIN
    lifecycle.encrypt(volume, "web")
    old = directory / "old"
    shutil.copy(vm / "log", old)
    deep.recrypt(volume, "web", integrity=True)
    all_read(volume)
    shutil.copy(old, vm / "log")
    with pytest.raises(IntegrityError, match="from before its VM had any"):
        read(volume, "log")
    assert "from before" in str(check.run(directory, keys, vm="web").entries)


@pytest.mark.parametrize("mode", ["copy", "journal"])
def test_deep_recrypt(mode, volume, vm, directory, keys):
    flip(vm / "disk-flat.vmdk", 7)
    with (vm / "disk-flat.vmdk").open("r+b") as file:  # a written sector, made to look like a hole
        file.seek(DATA_OFFSET + 70 * PAGE)
        file.write(bytes(PAGE))
    before = sidecars(vm)
    deep.recrypt(volume, "web", mode=mode)
    assert sidecars(vm) == wanted_sidecars(vm)
    assert not sidecars(vm) & before
    assert bad(directory, keys) == {"web/disk-flat.vmdk": ((7, 1), (70, 1))}
    with pytest.raises(IntegrityError):
        read(volume, "disk-flat.vmdk")


@pytest.mark.parametrize("mode", ["copy", "journal"])
@pytest.mark.parametrize("thick", [False, True], ids=["thin", "thick"])
def test_integrity_by_deep_recrypt(mode, thick, volume, directory, keys):
    volume.make_home("db", 0o755)
    path = directory / "db" / "disk"
    path.write_bytes(PLAIN)
    lifecycle.encrypt(volume, "db", thick=thick)
    assert not volume.home("db").standing().integrity
    deep.recrypt(volume, "db", mode=mode, integrity=True)
    assert volume.home("db").standing().integrity
    assert read(volume, "disk", "db") == PLAIN
    assert bad(directory, keys, "db") == {}
    flip(path, 30)
    assert bad(directory, keys, "db") == {"db/disk": ((30, 1),)}


def test_shallow_recrypt_and_move(volume, vm, directory, keys):
    before = sidecars(vm)
    recrypt.recrypt(volume, "web")
    assert sidecars(vm) == before
    all_read(volume)
    move.move(volume, "web", volume, "www")
    all_read(volume, "www")
    assert bad(directory, keys, "www") == {}


@pytest.mark.parametrize("same_key", [False, True], ids=["new keys", "same key"])
def test_clone(same_key, volume, vm, directory, keys):
    clone.clone(volume, "web", volume, "new", same_key=same_key)
    top = directory / "new"
    assert sidecars(top) == wanted_sidecars(top)
    all_read(volume, "new")
    flip(top / "disk-flat.vmdk", 9)
    assert bad(directory, keys, "new") == {"new/disk-flat.vmdk": ((9, 1),)}
    all_read(volume)


def test_clone_gets_integrity(volume, directory, keys):
    volume.make_home("db", 0o755)
    (directory / "db" / "disk").write_bytes(PLAIN)
    with pytest.raises(UsageError, match="without a key there are no tags"):
        clone.clone(volume, "db", volume, "no", integrity=True)
    lifecycle.encrypt(volume, "db")
    clone.clone(volume, "db", volume, "new", integrity=True)
    assert volume.home("new").standing().integrity
    assert read(volume, "disk", "new") == PLAIN
    with pytest.raises(UsageError, match="no tags"):
        clone.clone(volume, "db", volume, "other", same_key=True, integrity=True)


def test_a_changed_sector_stops_a_clone(volume, vm, directory):
    flip(vm / "disk-flat.vmdk", 3)
    with pytest.raises(IntegrityError, match="sector 3"):
        clone.clone(volume, "web", volume, "new")
    assert not (directory / "new").exists()


def test_tags_go_with_their_file(volume, vm):
    home = volume.home("web")
    namespace.remove(home, home.fd, "log", os.unlink)
    assert len(sidecars(vm)) == 4  # it has another name
    with tree.directory(home.fd, "below") as below:
        namespace.remove(home, below, "twin", os.unlink)
    assert len(sidecars(vm)) == 3
    place = (home.fd, "empty", home, home.fd, "disk.vmdk")
    namespace.rename(namespace.Move(home, *place, 0, is_dir=False, top=False, new_top=False), None)
    assert len(sidecars(vm)) == 2
    assert sidecars(vm) == wanted_sidecars(vm)
    for name in ("disk.vmdk", "disk-flat.vmdk", "web.vmx"):
        namespace.remove(home, home.fd, name, os.unlink)
    os.rmdir(vm / "below")
    (vm / ".ioflt.d" / ("0" * 8 + tags.SUFFIX)).touch()  # of a file that went when the power failed
    volume.remove_home("web")
    assert not vm.exists()


def test_files_stay_in_their_home(volume, vm, directory):
    clone.clone(volume, "web", volume, "new", same_key=True)
    old, new = volume.home("web"), volume.home("new")
    with pytest.raises(CrossHomeError, match="stay in their home"):
        namespace.check_link(old, Treatment.CONTAINER, new, "disk")


def test_strays_are_told_of(volume, vm, directory, keys):
    shutil.copy(vm / ".ioflt.d" / min(sidecars(vm)), vm / ".ioflt.d" / ("1" * 8 + tags.SUFFIX))
    ((path, _),) = bad(directory, keys).items()
    assert path.endswith("11111111.tags")


def test_extend_and_fill(volume, vm, directory, keys):
    extend.extend_disk(volume, "web", "disk.vmdk", 1 << 20)
    assert bad(directory, keys) == {}
    assert read(volume, "disk-flat.vmdk") == PLAIN.ljust(1 << 20, b"\0")
    assert b"RW 2048" in read(volume, "disk.vmdk")
    reach.fill(str(vm / "disk-flat.vmdk"), keys, lambda _: None)
    assert read(volume, "disk-flat.vmdk") == PLAIN.ljust(1 << 20, b"\0")
    assert bad(directory, keys) == {}


def test_headers_restored_without_a_state_block_do_not_switch_it_off(volume, vm, keys):
    path = vm / "disk-flat.vmdk"
    fd = reach.take(str(path))
    area = recovery.read_header_area(fd)
    for offset in STATE_SLOT_OFFSETS:
        os.pwrite(fd, bytes(PAGE), offset)
    os.pwrite(fd, bytes(len(area)), 0)
    recovery.restore_header(fd, keys, area)
    os.close(fd)
    assert read(volume, "disk-flat.vmdk") == PLAIN
    flip(path, 2)
    with pytest.raises(IntegrityError):
        read(volume, "disk-flat.vmdk")


def test_a_reader_follows_a_writer(volume, vm):
    """Two open files, as of two mounts: the reader sees what was written before the writer closes."""
    home = volume.home("web")

    def opened(flags):
        fd = os.open(vm / "disk-flat.vmdk", flags)
        return files.open_file(home, fd, Treatment.CONTAINER, writable=flags != 0, place=lambda: None)

    writer, reader = opened(os.O_RDWR), opened(os.O_RDONLY)
    assert syscalls.try_write_lock(writer.fd)
    for number in range(50):
        at = number * 997
        writer.write(at, bytes([number]) * 5000)
        assert bytes(reader.read(at, 5000)) == bytes([number]) * 5000
        if number % 7 == 0:
            writer.flush()
    flip(vm / "disk-flat.vmdk", 2)
    with pytest.raises(IntegrityError):
        reader.read(2 * PAGE, 1)
    flip(vm / "disk-flat.vmdk", 2)
    area = 20
    writer.write(area * 8192, b"z" * PAGE)
    flip(vm / "disk-flat.vmdk", area * 2)  # in an area that is being written: found while the writer lives
    with pytest.raises(IntegrityError):
        reader.read(area * 8192, 1)
    writer.close()
    reader.read(area * 8192, 1)  # it was interrupted: whatever is there was being written
    reader.close()
    again = opened(os.O_RDWR)
    again.write(0, b"x")
    again.flush()
    assert again.scrub(lambda _: None) == ()
    again.close()


def test_new_files_of_every_kind(volume, vm, directory, keys):
    home = volume.home("web")
    for name in ("new", "new.vmx"):
        os.close(files.create(home, home.fd, name, mode=0o600))
    assert stored_as("new.vmx") is Treatment.VMX
    assert len(sidecars(vm)) == 5
    fd = os.open(vm / "new", os.O_RDWR)
    file = files.open_file(home, fd, Treatment.CONTAINER, writable=True, place=lambda: None)
    assert isinstance(file, Container)
    file.truncate(33 * PAGE + 5)
    file.flush()
    file.close()
    flip(vm / "new", 20)
    assert bad(directory, keys) == {"web/new": ((20, 1),)}
