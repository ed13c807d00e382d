"""Tags of sectors: the C loop, its twin, and what they are made of."""

import hashlib
import hmac
import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.crypto.secret import Secret
from ioflt.crypto.sectortags import TAG_SIZE, NativeSectorTags, PythonSectorTags, SectorTags
from ioflt.errors import BugError

CONTAINER = "6f9b0bfc-4757-4952-88c9-99092a4ffcba"
KEY = hashlib.sha256(b"a test key").digest()


def loops():
    return SectorTags(Secret(KEY), CONTAINER), PythonSectorTags(Secret(KEY), CONTAINER)


@given(
    st.lists(st.integers(0, 255), max_size=5),
    st.sampled_from([0, 1, 2**32, 2**51 - 8]),
    st.integers(0, 4095),
)
def test_both_loops_are_hmac(fillings, first, where):
    data = bytearray(b"".join(bytes([filling]) * 4096 for filling in fillings))
    for index, filling in enumerate(fillings):
        data[index * 4096 + where] ^= filling  # 0 stays a hole
    wanted = b""
    for index in range(len(fillings)):
        sector = data[index * 4096 : (index + 1) * 4096]
        message = UUID(CONTAINER).bytes + (first + index).to_bytes(8) + (sector if any(sector) else b"")
        wanted += hmac.digest(KEY, message, "sha256")[:TAG_SIZE]
    for loop in loops():
        assert loop.of(data, first) == wanted
        assert loop.of(memoryview(bytes(data)), first) == wanted


def test_holes():
    for loop in loops():
        assert loop.of_holes(3, 7) == loop.of(bytes(3 * 4096), 7)
        assert loop.of_holes(0, 7) == b""


def test_one_bit_in_the_last_byte_of_a_sector():
    for loop in loops():
        assert loop.of(bytes(4095) + b"\1", 0) != loop.of(bytes(4096), 0)


MANY = random.Random(3).randbytes(300 * 4096)


def test_many_sectors_by_several_threads_at_once():
    """One helper for all: each gets the tags of its own."""
    native, twin = loops()
    wanted = twin.of(MANY, 5)
    with ThreadPoolExecutor(4) as threads:
        found = list(
            threads.map(lambda number: (number, native.of(MANY[number * 4096 :], 5 + number)), range(40))
        )
    for number, tags in found:
        assert tags == wanted[number * TAG_SIZE :]


def test_begun_and_ended():
    for loop in loops():
        for count in (0, 1, 9, 300):
            with closing(loop.begin(MANY[: count * 4096], 7)) as begun:
                assert begun.tags() == loop.of(MANY[: count * 4096], 7)
        several = [loop.begin(MANY, first) for first in range(5)]
        several.pop(2).close()  # given up, with those before and behind it under way
        assert [begun.tags() for begun in several] == [loop.of(MANY, first) for first in (0, 1, 3, 4)]
        several[0].close()


def test_begun_before_a_wipe():
    """What runs finishes; what comes later has no key."""
    for loop in loops():
        wanted = loop.of(MANY, 0)
        begun, dropped = loop.begin(MANY, 0), loop.begin(MANY, 0)
        loop.wipe()
        assert begun.tags() == wanted
        dropped.close()
        for late in (begun.tags, dropped.tags) if isinstance(loop, NativeSectorTags) else (dropped.tags,):
            with pytest.raises(BugError):
                late()
        with pytest.raises(BugError):
            loop.begin(MANY, 0)


def test_a_forked_process_has_a_helper_of_its_own():
    native, twin = loops()
    wanted = twin.of(MANY, 0)
    assert native.of(MANY, 0) == wanted
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            begun = native.begin(MANY, 0)
            status = 0 if native.of(MANY, 0) == wanted == begun.tags() else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_forked_process_does_not_wait_for_the_helper_that_it_has_not():
    """What the helper had begun then is there in part: it is given up, or refused."""
    native, _ = loops()
    for ends in ("close", "tags"):
        begun = native.begin(MANY * 50, 0)
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)  # ends the process
            try:
                with suppress(BugError):
                    getattr(begun, ends)()
            finally:
                os._exit(0)
        begun.close()
        assert os.waitpid(pid, 0)[1] == 0


def test_misuse():
    for loop in loops():
        with pytest.raises(BugError):
            loop.of(bytes(4095), 0)
        with pytest.raises(BugError):
            loop.begin(bytes(4095), 0)
        loop.wipe()
        with pytest.raises(BugError):
            loop.of(bytes(4096), 0)
        with pytest.raises(BugError):
            loop.of_holes(1, 0)
    with pytest.raises(BugError):
        SectorTags(Secret(bytes(16)), CONTAINER)
