"""Changed blocks of the disks of a home whose files nobody has open."""

import os
from contextlib import closing, contextmanager

import pytest

from ioflt.datastore import cbt, cbtfiles, files, regular
from ioflt.datastore.deep import home as deep
from ioflt.errors import ChangesUnknownError, NotFoundError, UnsupportedError, UsageError
from ioflt.format.cbt.changeid import ChangeId
from ioflt.format.cbt.sidecar import BLOCK
from ioflt.types import HomeState
from tests.unit.datastore.stored import Stored

SIZE = 20 * BLOCK
TWO = b"""# Disk DescriptorFile
version=1
CID=0000abcd
parentCID=ffffffff
createType="twoGbMaxExtentFlat"
RW %d FLAT "two-f001.vmdk" 0
RW %d ZERO
RW %d FLAT "two-f002.vmdk" %d
""" % (SIZE // 512, 2 * BLOCK // 512, 10 * BLOCK // 512, 5 * BLOCK // 512)


@pytest.fixture(params=[HomeState.ENCRYPTED, HomeState.CLEAR], ids=["encrypted", "clear"])
def stored(request, ioflt_home):
    made = Stored(ioflt_home, request.param)
    yield made
    made.close()


@contextmanager
def written(stored, path):
    """A file, open for writing, whose changes are marked."""
    home = stored.home
    with regular.parent(home, path) as (parent_fd, name):
        fd = files.open_regular(parent_fd, name, os.O_RDWR)
        treatment = home.treatment(path, fd)
        with closing(files.open_file(home, fd, treatment, writable=True, place=lambda: None)) as file:
            assert cbtfiles.attach(home.fd, file)
            yield file
            file.flush()


def change(stored, path, offset, data=b"x"):
    with written(stored, path) as file:
        file.write(offset, data)
        file.sync(data_only=True)


def test_a_raw_disk(stored):
    stored.put("disk.raw", bytes(SIZE))
    assert not cbt.is_tracked(stored.home, "disk.raw")
    assert cbt.enable(stored.home, "disk.raw")
    assert not cbt.enable(stored.home, "disk.raw")
    assert cbt.is_tracked(stored.home, "disk.raw")
    first = cbt.take(stored.home, "disk.raw")
    assert first.sequence == 1
    change(stored, "disk.raw", 3 * BLOCK)
    second = cbt.take(stored.home, "disk.raw")
    change(stored, "disk.raw", 7 * BLOCK, bytes(BLOCK + 1))
    assert (second.uuid, second.sequence) == (first.uuid, 2)
    assert cbt.query(stored.home, "disk.raw", first) == [(3 * BLOCK, BLOCK), (7 * BLOCK, 2 * BLOCK)]
    assert cbt.query(stored.home, "disk.raw", second) == [(7 * BLOCK, 2 * BLOCK)]
    assert cbt.query(stored.home, "disk.raw", None) == [(0, SIZE)]
    assert cbt.disable(stored.home, "disk.raw")
    assert not cbt.disable(stored.home, "disk.raw")
    assert cbtfiles.names(stored.home.fd) == []
    with pytest.raises(NotFoundError, match="not tracked"):
        cbt.take(stored.home, "disk.raw")
    cbt.enable(stored.home, "disk.raw")
    with pytest.raises(ChangesUnknownError, match="none of what is tracked now"):
        cbt.query(stored.home, "disk.raw", first)


def test_a_disk_of_several_extents(stored):
    stored.put("two.vmdk", TWO)
    stored.put("two-f001.vmdk", bytes(SIZE))
    stored.put("two-f002.vmdk", bytes(SIZE))
    assert cbt.enable(stored.home, "two.vmdk")
    cbt.take(stored.home, "two-f002.vmdk")  # asked for alone, it runs ahead
    first = cbt.take(stored.home, "two.vmdk")
    assert first.sequence == 2
    change(stored, "two-f001.vmdk", SIZE - 1)
    change(stored, "two-f002.vmdk", 2 * BLOCK)  # not in the disk
    change(stored, "two-f002.vmdk", 5 * BLOCK)
    change(stored, "two-f002.vmdk", 14 * BLOCK, bytes(2 * BLOCK))
    named = [(SIZE - BLOCK, BLOCK), (SIZE + 2 * BLOCK, BLOCK), (SIZE + 11 * BLOCK, BLOCK)]
    assert cbt.query(stored.home, "two.vmdk", first) == named
    assert cbt.query(stored.home, "two.vmdk", None) == [(0, SIZE), (SIZE + 2 * BLOCK, 10 * BLOCK)]
    second = cbt.take(stored.home, "two.vmdk")
    assert cbt.query(stored.home, "two.vmdk", second) == []
    cbt.disable(stored.home, "two-f001.vmdk")
    assert not cbt.is_tracked(stored.home, "two.vmdk")
    cbt.enable(stored.home, "two.vmdk")
    with pytest.raises(ChangesUnknownError):
        cbt.query(stored.home, "two.vmdk", first)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"QFI\xfb" + bytes(1000), "qcow2"),
        (b"KDMV" + bytes(1000), "sparse VMDK"),
        (b"COWD" + bytes(1000), "sparse VMDK"),
        (bytes.fromhex("bebafeca00000000") + bytes(1000), "sparse VMDK"),
        (TWO.replace(b"FLAT", b"SPARSE"), "SPARSE"),
        (TWO.replace(b"parentCID=ffffffff", b"parentCID=12345678"), "snapshot"),
        (TWO.partition(b"RW")[0] + b"RW 40 ZERO\n", "no extent"),
    ],
)
def test_other_formats_are_refused(stored, content, reason):
    stored.put("other.vmdk", content)
    with pytest.raises(UnsupportedError, match=reason):
        cbt.enable(stored.home, "other.vmdk")
    assert cbtfiles.names(stored.home.fd) == []


def test_what_is_no_disk(stored):
    stored.put("web.vmx", b'displayName = "web"\n')
    if stored.home.standing().state is HomeState.ENCRYPTED:
        with pytest.raises(UsageError, match="VMX"):
            cbt.enable(stored.home, "web.vmx")
    for path in ("none.raw", "no/such.raw", "web.vmx/disk.raw"):
        with pytest.raises(NotFoundError, match="no such disk"):
            cbt.enable(stored.home, path)
    os.symlink("web.vmx", stored.path("link.raw"))
    for path in ("../web/web.vmx", "/etc/passwd", "link.raw"):
        with pytest.raises(UsageError, match="leads out"):
            cbt.enable(stored.home, path)


def test_an_id_of_another_disk(stored):
    for name in ("a.raw", "b.raw"):
        stored.put(name, bytes(SIZE))
        cbt.enable(stored.home, name)
    taken = cbt.take(stored.home, "a.raw")
    with pytest.raises(ChangesUnknownError, match="full backup"):
        cbt.query(stored.home, "b.raw", taken)
    with pytest.raises(ChangesUnknownError, match="none of what is tracked now"):
        cbt.query(stored.home, "a.raw", ChangeId(taken.uuid, 100))


@pytest.mark.allow_log("tracked anew")
def test_a_write_that_nobody_tracked(stored):
    path = stored.put("disk.raw", bytes(SIZE))
    cbt.enable(stored.home, "disk.raw")
    taken = cbt.take(stored.home, "disk.raw")
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, b"x", os.fstat(fd).st_size - BLOCK)
    os.close(fd)
    with pytest.raises(ChangesUnknownError, match="full backup"):
        cbt.query(stored.home, "disk.raw", taken)
    assert cbt.take(stored.home, "disk.raw").sequence == 1


@pytest.mark.parametrize("mode", ["copy", "journal"])
def test_new_data_keys_begin_anew(ioflt_home, mode):
    stored = Stored(ioflt_home)
    try:
        stored.put("disk.raw", bytes(SIZE))
        stored.put("other.raw", bytes(SIZE))
        cbt.enable(stored.home, "disk.raw")
        taken = cbt.take(stored.home, "disk.raw")
        before = cbtfiles.names(stored.home.fd)
        deep.recrypt(stored.volume, "web", mode=mode)
        after = cbtfiles.names(stored.home.fd)
        assert len(after) == 1
        assert after != before
        with pytest.raises(ChangesUnknownError):
            cbt.query(stored.home, "disk.raw", taken)
        again = cbt.take(stored.home, "disk.raw")
        change(stored, "disk.raw", 2 * BLOCK)
        assert cbt.query(stored.home, "disk.raw", again) == [(2 * BLOCK, BLOCK)]
        assert not cbt.is_tracked(stored.home, "other.raw")
    finally:
        stored.close()


def test_a_disk_that_grows(stored):
    stored.put("disk.raw", bytes(SIZE))
    cbt.enable(stored.home, "disk.raw")
    taken = cbt.take(stored.home, "disk.raw")
    with written(stored, "disk.raw") as file:
        file.truncate(SIZE + BLOCK)
    assert cbt.query(stored.home, "disk.raw", taken) == [(SIZE, BLOCK)]


def test_a_byte_cut_off_and_given_back(stored):
    """It was not zero before; within a sector the stored file keeps its size."""
    stored.put("disk.raw", b"\1" * SIZE)
    cbt.enable(stored.home, "disk.raw")
    taken = cbt.take(stored.home, "disk.raw")
    with written(stored, "disk.raw") as file:
        file.truncate(SIZE - 1)
        file.truncate(SIZE)
    assert cbt.query(stored.home, "disk.raw", taken) == [(SIZE - BLOCK, BLOCK)]


@pytest.mark.parametrize(
    "extents",
    [
        b'RW 1 FLAT "web-flat.vmdk" 1\n',
        b'RW 1 ZERO\nRW 1 FLAT "web-flat.vmdk" 0\n',
        b'RW 2 FLAT "web-flat.vmdk" 0\nRW 1 ZERO\n',
    ],
    ids=["from elsewhere on", "at another place", "longer, where zeros were"],
)
def test_laid_out_otherwise_it_is_another_disk(stored, extents):
    """Nobody wrote to the extent, and yet the disk has other bytes."""
    head = TWO.partition(b"RW")[0]
    stored.put("web-flat.vmdk", b"\1" * SIZE)
    stored.put("web.vmdk", head + b'RW 1 FLAT "web-flat.vmdk" 0\nRW 2 ZERO\n')
    cbt.enable(stored.home, "web.vmdk")
    taken = cbt.take(stored.home, "web.vmdk")
    assert cbt.query(stored.home, "web.vmdk", taken) == []
    stored.path("web.vmdk").unlink()
    stored.put("web.vmdk", head + extents)
    with pytest.raises(ChangesUnknownError, match="full backup is due"):
        cbt.query(stored.home, "web.vmdk", taken)


def test_a_tracked_file_that_became_an_image(stored):
    """What changes in it is not what changes in the disk."""
    stored.put("disk.qcow2", bytes(SIZE))
    cbt.enable(stored.home, "disk.qcow2")
    taken = cbt.take(stored.home, "disk.qcow2")
    change(stored, "disk.qcow2", 0, b"QFI\xfb")
    for ask in (cbt.take, lambda *disk: cbt.query(*disk, taken)):
        with pytest.raises(UnsupportedError, match="it is qcow2"):
            ask(stored.home, "disk.qcow2")
    assert cbt.disable(stored.home, "disk.qcow2")


def test_a_raw_disk_may_begin_as_its_guest_wants(stored):
    stored.put("disk.raw", bytes(SIZE))
    cbt.enable(stored.home, "disk.raw")
    taken = cbt.take(stored.home, "disk.raw")
    change(stored, "disk.raw", 0, b"QFI\xfb")
    assert cbt.query(stored.home, "disk.raw", taken) == [(0, BLOCK)]
