"""The contract of an open file of a datastore, as a function that each kind is run through."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from functools import partial

from ioflt.datastore import openfile
from ioflt.datastore.openfile import OpenFile

_LIMIT = 5 * 4096
_MODES = (
    openfile.ALLOCATE,
    openfile.ALLOCATE_KEEP_SIZE,
    openfile.PUNCH_HOLE,
    openfile.ZERO_RANGE,
    openfile.ZERO_RANGE_KEEP_SIZE,
)
#: Collapse, insert and unshare a range: not served.
_OTHER_MODES = (0x08, 0x20, 0x40)


def check_openfile(open_again: Callable[[], OpenFile], seed: int = 0, steps: int = 150) -> None:
    """Run an empty file, opened for writing by `open_again`, through the contract. Raises AssertionError.

    `open_again` gives the file as after a restart; one that is open is closed before.
    """
    choose = random.Random(seed)  # noqa: S311 - which steps are taken is no secret
    file = open_again()
    expected = bytearray()
    assert file.length == 0
    for _ in range(steps):
        offset = choose.choice((choose.randrange(_LIMIT), choose.randrange(0, _LIMIT, 4096), len(expected)))
        length = choose.choice((choose.randrange(1, 8192), 4096, choose.randrange(1, 20)))
        _step(choose, file, expected, offset, length)
        _check(file, expected)
        if choose.random() < 0.1:
            file.flush()
            assert file.settled
            assert file.closable
            file.close()
            file = open_again()
            _check(file, expected)
        elif choose.random() < 0.1:
            file.sync(data_only=choose.random() < 0.5)
            assert file.settled
    _check_refusals(file, expected)
    file.flush()
    file.close()


def _step(choose: random.Random, file: OpenFile, expected: bytearray, offset: int, length: int) -> None:
    action = choose.choice(("write", "write", "truncate", "allocate"))
    if action == "write":
        data = choose.choice((choose.randbytes(length), bytes(length)))
        assert isinstance(file.write_waits(offset, offset + length), bool)
        file.write(offset, choose.choice((data, memoryview(data))))
        _extend(expected, offset)
        expected[offset : offset + length] = data
    elif action == "truncate":
        file.truncate(offset)
        _extend(expected, offset)
        del expected[offset:]
    else:
        _allocate(choose.choice(_MODES), file, expected, offset, length)


def _allocate(mode: int, file: OpenFile, expected: bytearray, offset: int, length: int) -> None:
    try:
        file.allocate(mode, offset, length)
    except OSError as error:  # not every file system can
        if error.errno != errno.EOPNOTSUPP:
            raise
        return
    if mode in (openfile.ALLOCATE, openfile.ZERO_RANGE):
        _extend(expected, offset + length)
    if mode not in (openfile.ALLOCATE, openfile.ALLOCATE_KEEP_SIZE):
        end = max(offset, min(offset + length, len(expected)))
        expected[offset:end] = bytes(end - offset)


def _extend(expected: bytearray, length: int) -> None:
    expected.extend(bytes(max(0, length - len(expected))))


def _check(file: OpenFile, expected: bytearray) -> None:
    assert file.length == len(expected)
    assert bytes(file.read(0, len(expected) + 10)) == expected
    assert bytes(file.read(len(expected), 10)) == b""
    assert bytes(file.read(len(expected) + 5000, 10)) == b""
    middle = len(expected) // 2
    assert bytes(file.read(middle, 7)) == expected[middle : middle + 7]
    _check_holes(file, expected)
    before = file.length
    file.write(before + 100, b"")
    assert file.length == before, "a write of nothing changes nothing"


def _check_holes(file: OpenFile, expected: bytearray) -> None:
    position = 0
    while position < len(expected):
        try:
            data = file.seek(position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            data = len(expected)
        assert position <= data <= len(expected)
        assert not any(expected[position:data]), "data in a hole"
        if data == len(expected):
            break
        position = file.seek(data, os.SEEK_HOLE)
        assert data <= position <= len(expected)
        # A reserved range counts as data while a clean page of it is cached: it may go in between.
        position = max(position, data + 1)
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        _refuses(errno.ENXIO, partial(file.seek, len(expected), whence))


def _check_refusals(file: OpenFile, expected: bytearray) -> None:
    for mode in _OTHER_MODES:
        _refuses(errno.EOPNOTSUPP, partial(file.allocate, mode, 0, 4096))
    _refuses(errno.EFBIG, lambda: file.truncate(openfile.MAX_LENGTH + 1))
    _refuses(errno.EFBIG, lambda: file.write(openfile.MAX_LENGTH, b"x"))
    _check(file, expected)


def _refuses(number: int, call: Callable[[], object]) -> None:
    try:
        call()
    except OSError as error:
        if error.errno != number:
            raise
    else:
        raise AssertionError(f"not refused with {errno.errorcode[number]}")
