"""A fault reaches the caller and changes nothing else; what passes a trace is counted once."""

import errno
import os
import random

import pytest

from ioflt.crypto.secret import Secret
from ioflt.crypto.xts import SectorCipher
from ioflt.filters.backing import Backing
from ioflt.filters.fault import Fault, Plan
from ioflt.filters.trace import Counters, Trace
from ioflt.filters.vmcrypt import VmCrypt

S = 4096
OPERATIONS = {
    "read": lambda link: link.read(5, 10),
    "write": lambda link: link.write(S, b"x" * S),
    "resize": lambda link: link.resize(2 * S),
    "allocate": lambda link: link.allocate(0, S, keep_size=True),
    "punch": lambda link: link.punch(0, S),
    "zero": lambda link: link.zero(0, S),
    "seek_data": lambda link: link.seek_data(0),
    "seek_hole": lambda link: link.seek_hole(0),
    "sync": lambda link: link.sync(data_only=True),
}


@pytest.fixture
def backing(tmp_path):
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield Backing(fd, 0)
    os.close(fd)


def state(backing):
    return backing.size(), bytes(backing.read(0, 1 << 20)), os.fstat(backing.fd).st_blocks


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_planned_call_fails_and_no_other(backing, operation, call, number):
    backing.write(0, bytes(range(256)) * 64)
    plan = Plan({operation: {call: number}})
    link = Fault(backing, plan)
    for count in range(1, 5):
        before = state(backing)
        if count == call:
            with pytest.raises(OSError, match=os.strerror(number)) as caught:
                OPERATIONS[operation](link)
            assert caught.value.errno == number
            assert state(backing) == before
        else:
            OPERATIONS[operation](link)
    assert plan.calls == {operation: 4}


@pytest.mark.parametrize("operation", ["read", "write", "punch", "zero"])
def test_encryption_over_a_fault_at_every_call(backing, operation):
    for call in range(1, 4):
        for seed in range(20):
            fail_once(backing, operation, call, random.Random(seed))


def fail_once(backing, operation, call, choose):
    """An operation that fails changes no byte outside its range, and works when it is tried again."""
    backing.resize(0)
    below = Fault(backing, plan := Plan())
    crypt = VmCrypt(below, SectorCipher(Secret(bytes(range(64)))), thin=True, initialised=None)
    content = bytearray(choose.randbytes(6 * S))
    crypt.write(0, content)
    offset, length = choose.randrange(4 * S), choose.randrange(1, 2 * S)
    data = choose.randbytes(length)
    plan.calls.clear()
    plan.errors = {operation: {call: errno.EIO}}
    failed = False
    try:
        if choose.random() < 0.5:
            crypt.write(offset, data)
        else:
            crypt.punch(offset, length)
    except OSError as error:
        failed = error.errno == errno.EIO
    assert failed == (plan.calls.get(operation, 0) >= call)
    plan.errors = {}
    after = bytes(crypt.read(0, 7 * S))
    assert after[:offset] == content[:offset]
    assert after[offset + length :] == content[offset + length :]
    crypt.write(offset, data)
    content[offset : offset + length] = data
    assert crypt.read(0, 7 * S) == content


def test_trace_counts_what_passed(backing):
    counters = Counters()
    plan = Plan({"write": {3: errno.EIO}, "sync": {2: errno.EIO}})
    link = Trace(Fault(backing, plan), counters)
    other = Trace(backing, counters)
    link.write(0, bytes(100))
    other.write(100, bytes(50))
    link.write(0, b"x")
    with pytest.raises(OSError, match="Input/output"):
        link.write(0, b"y")
    assert len(link.read(100, 100)) == 50
    link.sync(data_only=False)
    with pytest.raises(OSError, match="Input/output"):
        link.sync(data_only=False)
    assert (counters.writes, counters.write_bytes) == (3, 151)
    assert (counters.reads, counters.read_bytes) == (1, 50)
    assert counters.syncs == 1
    assert min(counters.read_ns, counters.write_ns, counters.sync_ns) > 0


def test_backing_goes_on_after_short_reads_and_writes(backing, monkeypatch):
    pwrite, preadv = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, memoryview(data)[:7], offset))
    data = os.urandom(100)
    backing.write(3, data)

    def short(fd, buffers, offset, flags):
        return preadv(fd, [memoryview(buffers[0])[:9]], offset, flags)

    monkeypatch.setattr(os, "preadv", short)
    assert bytes(backing.read(0, 200)) == bytes(3) + data
    assert bytes(backing.read(3, 100)) == data
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: 0)
    with pytest.raises(OSError, match="no progress"):
        backing.write(0, b"x")


def test_backing_smaller_than_its_start(backing):
    late = Backing(backing.fd, 1 << 20)
    backing.write(0, b"x")
    assert late.size() == 0
    assert bytes(late.read(0, 10)) == b""
