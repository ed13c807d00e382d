"""The encryption filter against a bytearray, for ranges aligned or not at either end."""

import os

import pytest

from ioflt.crypto.secret import Secret
from ioflt.crypto.xts import PythonSectorCipher, SectorCipher
from ioflt.errors import BugError
from ioflt.filters.backing import Backing
from ioflt.filters.vmcrypt import VmCrypt

S = 4096
SIZE = 5 * S
STARTS = [0, 1, 512, S - 1, S, S + 1, 2 * S - 1, 2 * S]
LENGTHS = [1, 2, 511, S - 1, S, S + 1, 2 * S - 1, 2 * S, 2 * S + 1, 3 * S]
KEY = bytes(range(64))
BASE = 1 << 20

#: thin, mark: all ciphertext; a hole below the mark is noise in a thick container and no case here
KINDS = {"thin": (True, None), "thick": (False, None), "filling": (False, 2 * S)}


@pytest.fixture(params=[SectorCipher, PythonSectorCipher], ids=["built", "pure"])
def cipher(request):
    return request.param(Secret(KEY))


@pytest.fixture
def fd(tmp_path):
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def crypt(fd, cipher, kind):
    thin, mark = KINDS[kind]
    return VmCrypt(Backing(fd, BASE), cipher, thin=thin, initialised=mark)


@pytest.fixture
def content(crypt, kind):
    """A written body with a hole in its fourth sector, where the kind can have one."""
    data = bytearray(os.urandom(SIZE))
    crypt.write(0, data)
    if kind != "thick":
        crypt.below.punch(3 * S, S)
        data[3 * S : 4 * S] = bytes(S)
    assert crypt.read(0, SIZE) == data
    return data


def decrypted(fd, mark):
    """The body by another way: sector by sector with the cipher in Python."""
    raw = bytearray(os.pread(fd, 1 << 20, BASE))
    twin = PythonSectorCipher(Secret(KEY))
    for start in range(0, len(raw), S):
        hole = mark is not None and start >= mark
        view = memoryview(raw)[start : start + S]
        twin.decrypt(view, start // S, holes=hole)
    return raw


def test_read(crypt, content):
    for offset in STARTS:
        for length in [0, *LENGTHS]:
            assert bytes(crypt.read(offset, length)) == content[offset : offset + length]
    assert bytes(crypt.read(SIZE - 10, 100)) == content[-10:]
    assert bytes(crypt.read(SIZE, 100)) == b""
    assert bytes(crypt.read(SIZE + 7, 100)) == b""


def test_write(crypt, content, fd, kind):
    mark = {"thin": 0, "thick": None, "filling": 2 * S}[kind]
    for offset in STARTS:
        for length in LENGTHS:
            data = os.urandom(length)
            before = bytes(data)
            crypt.write(offset, data)
            assert data == before, "the caller's buffer is not touched"
            content[offset : offset + length] = data
            assert crypt.read(0, SIZE) == content
    assert decrypted(fd, mark) == content
    assert crypt.size() == SIZE


def test_write_that_extends(crypt, content):
    crypt.write(SIZE - 3, b"0123456")
    assert crypt.size() == SIZE + S
    assert bytes(crypt.read(SIZE - 3, 2 * S)) == b"0123456" + bytes(S - 4)


def test_write_of_nothing(crypt, content, fd):
    raw = os.pread(fd, 1 << 20, BASE)
    for offset in (0, 5, SIZE, SIZE + 5):
        crypt.write(offset, b"")
    assert os.pread(fd, 1 << 20, BASE) == raw


@pytest.mark.parametrize("action", ["punch", "zero"])
def test_clear(crypt, content, action, kind, fd):
    for offset in [*STARTS, 3 * S, 3 * S + 5]:
        for length in LENGTHS:
            fresh = os.urandom(3 * S)
            crypt.write(0, fresh)
            content[: 3 * S] = fresh
            getattr(crypt, action)(offset, length)
            end = min(SIZE, offset + length)
            content[offset:end] = bytes(end - offset)
            assert crypt.read(0, SIZE) == content
            assert crypt.size() == SIZE
            if kind == "thick":
                for start in range(0, SIZE, S):
                    assert any(os.pread(fd, S, BASE + start)), "no holes in a thick body"


def test_clear_makes_holes_of_whole_sectors_only(cipher, fd):
    crypt = VmCrypt(Backing(fd, BASE), cipher, thin=True, initialised=None)
    crypt.write(0, bytes(SIZE))
    assert crypt.seek_data(0) == 0
    assert crypt.seek_hole(0) == SIZE, "zeros that are written are data"
    crypt.punch(S - 1, 2 * S + 2)
    assert crypt.seek_hole(0) == S
    assert crypt.seek_data(S) == 3 * S


@pytest.mark.parametrize("mark", [None, 0, S, 2 * S, SIZE])
def test_holes_follow_the_mark(cipher, fd, mark):
    crypt = VmCrypt(Backing(fd, BASE), cipher, thin=False, initialised=mark)
    crypt.resize(SIZE)
    found = bytes(crypt.read(0, SIZE))
    for start in range(0, SIZE, S):
        zeros = not any(found[start : start + S])
        assert zeros == (mark is not None and start >= mark)
        assert bytes(crypt.read(start + 1, 7)) == found[start + 1 : start + 8]


def test_fill_holes(cipher, fd):
    crypt = VmCrypt(Backing(fd, BASE), cipher, thin=False, initialised=0)
    crypt.resize(SIZE)
    crypt.write(S, b"x" * S)
    assert crypt.fill_holes(0, 4 * S) == 3 * S
    assert crypt.fill_holes(0, 4 * S) == 0
    crypt.initialised = 4 * S
    expected = bytes(S) + b"x" * S + bytes(3 * S)
    assert crypt.read(0, SIZE) == expected
    assert crypt.fill_holes(4 * S, S) == S
    crypt.initialised = None
    assert crypt.read(0, SIZE) == expected
    assert decrypted(fd, None) == expected
    assert crypt.fill_holes(SIZE, S) == 0


def test_body_cut_inside_a_sector(cipher, fd):
    crypt = VmCrypt(Backing(fd, BASE), cipher, thin=True, initialised=None)
    crypt.write(0, b"a" * 2 * S)
    os.ftruncate(fd, BASE + S + 100)
    assert crypt.read(0, 2 * S) == b"a" * S
    crypt.write(S + 5, b"b")
    assert bytes(crypt.read(0, 2 * S)) == b"a" * S + bytes(5) + b"b" + bytes(S - 6)


def test_far_away(cipher, fd):
    """Beyond 2 TiB: neither offset nor tweak is cut to 32 bits."""
    crypt = VmCrypt(Backing(fd, BASE), cipher, thin=True, initialised=None)
    for offset in (2**32 + 5, 2**41 + 5, 2**42 + 5):
        try:
            crypt.write(offset, b"far")
        except OSError:  # larger than this file system's files
            continue
        assert bytes(crypt.read(offset - 5, 10)) == bytes(5) + b"far\0\0"
        assert bytes(crypt.read(5, 3)) == bytes(3)


def test_closed_means_wiped(crypt, content):
    crypt.close()
    with pytest.raises(BugError):
        crypt.read(0, S)
    with pytest.raises(BugError):
        crypt.write(0, bytes(S))


def test_nowait_hands_on(crypt, content):
    try:
        found = crypt.read(5, S, nowait=True)
    except BlockingIOError:
        return
    assert bytes(found) == content[5 : S + 5]
