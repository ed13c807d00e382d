"""The changes of one disk file, in a file of their own: of each block the sequence in which it changed last.

Before the first change of a writer the state there says, durably, that one is at work; when he goes the map
is written, then a state that says how the disk file was. What is found otherwise, after a crash or a change
behind our back, is tracked anew under another UUID: who asks with a change id of before takes everything.

Who changes the disk file has the writer's lock of it, and keeps `take` and `settle` apart from what he marks.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import mmap
import os
import sys
import threading
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace

from ioflt.crypto.rng import random_bytes
from ioflt.crypto.secret import Secret
from ioflt.errors import ChangesUnknownError, CorruptDataError, MalformedError
from ioflt.format.cbt import sidecar
from ioflt.format.cbt.changeid import MAX_SEQUENCE, UUID_SIZE, ChangeId
from ioflt.format.cbt.sidecar import MAX_PAGES, MAX_TAILS, PAGE_MARKS, PAGE_SIZE, Stamp, State

#: What is said of a change id of another UUID, or that is ahead.
UNKNOWN = "that change id is none of what is tracked now: a full backup is due"

#: Blocks of one change from which on all behind its beginning counts as changed: 64 GiB.
_LONG = 1 << 20
#: Bytes of `marks` that are looked at in one step, for 2 GiB of the disk file.
_STEP = 4096

#: Pages that are written in one call.
_RUN = 256

_NO_PAGES = sidecar.root_of({})

_log = logging.getLogger(__name__)


class ChangeMap:
    """Owns `fd`. Blocks are numbers; calls may raise OSError.

    `sequence` is 0 until something was loaded.
    """

    def __init__(self, fd: int, key: Secret, stamp: Callable[[], Stamp], *, name: str = "") -> None:
        """`stamp` tells how the disk file is now; `name` is what it is called in the log."""
        self._fd = fd
        self.key = key
        self._stamp = stamp
        self._name = name
        self._state: State | None = None
        self._dirty: set[int] = set()
        self._lock = threading.Lock()
        self._marks: mmap.mmap | None = None
        self._digests: dict[int, bytes] = {}
        self._tails: list[tuple[int, int]] = []
        self.pages: dict[int, array[int]] = {}
        self.sequence = 0
        self.in_use = False

    # Writers

    def begin(self) -> None:
        """A writer is at work from now on, durably."""
        with self._lock:
            if not self.in_use:
                self._put(self._load(), in_use=True)
                self.in_use = True

    def mark(self, first: int, last: int) -> None:
        """These blocks change."""
        if last - first >= _LONG:
            self.cut(first)
            return
        sequence = self.sequence
        while first <= last:
            number, place = divmod(first, PAGE_MARKS)
            page = self.pages.get(number)
            if page is None:
                if len(self.pages) >= MAX_PAGES:
                    self.cut(first)
                    return
                page = self.pages.setdefault(number, array("I", bytes(PAGE_SIZE)))
            count = min(last - first + 1, PAGE_MARKS - place)
            if count == 1:
                page[place] = sequence
            else:
                page[place : place + count] = array("I", (sequence,)) * count
            self._dirty.add(number)
            first += count

    def cut(self, block: int) -> None:
        """All from that block on changes."""
        with self._lock:
            if self.is_cut(block):
                return
            tails = self._tails
            while tails and tails[-1][1] >= block:
                tails.pop()
            tails.append((self.sequence, block))
            if len(tails) > MAX_TAILS:  # the oldest two become one, which says more than both
                tails[:2] = [(tails[1][0], tails[0][1])]

    def is_cut(self, block: int) -> bool:
        """Whether all from that block on counts as changed in this sequence."""
        return bool(self._tails) and self._tails[-1][0] == self.sequence and self._tails[-1][1] <= block

    def marks(self, last: int) -> mmap.mmap:
        """A bit for each block up to `last` at least, lowest first: who sets one marks that block.

        Until the next call here, which sees what was set; then ask again.
        """
        if self._marks is None or len(self._marks) * 8 <= last:
            self._collect()
            # private: looking at a shared one takes memory for all of it, 2 MiB for each TiB of the disk
            self._marks = mmap.mmap(-1, last // 8 + 1, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return self._marks

    def settle(self) -> None:
        """The writer may go: the map, then how the disk file is, on the medium."""
        if self.in_use:
            if self.key.wiped:
                raise OSError(errno.ENOKEY, os.strerror(errno.ENOKEY))
            self._collect()
            stamp = self._stamp()
            self._drop_pages(sidecar.pages_of(stamp.size))
            self._write_pages()
            self._put(self._load(), in_use=False, stamp=stamp)
            self.in_use = False

    # Askers

    def ready(self) -> None:
        """Something is tracked: what may have been missed shows now."""
        self._load()

    @property
    def uuid(self) -> bytes:
        """Changes with every other one when something may have been missed."""
        return self._load().uuid

    def take(self, at_least: int = 0) -> ChangeId:
        """The id of this moment: what changes from now on changed after it. Its sequence is at least that.

        What is changing just now would be missed: nobody may.
        """
        state = self._load()
        self._collect()
        if max(self.sequence, at_least) >= MAX_SEQUENCE:
            at_least = 0
            state = self._reset(state.number)
            if self.in_use:
                self._put(state, in_use=True)
        before, taken = self.sequence, ChangeId(state.uuid, max(self.sequence, at_least))
        self.sequence = taken.sequence + 1
        if not self.in_use:
            try:
                self._put(state, in_use=False)
            except BaseException:
                self.sequence = before
                raise
        return taken

    def since(self, sequence: int, start: int = 0) -> Iterator[tuple[int, int | None]]:
        """Runs (first, number) of the blocks from `start` on that changed after the id of that sequence,
        rising and apart; of one that reaches to the end, None.

        Raises ChangesUnknownError for an id that is ahead.
        """
        self._load()
        self._collect()
        if sequence >= self.sequence:
            raise ChangesUnknownError(UNKNOWN)
        tail = min((block for mark, block in self._tails if mark > sequence), default=None)
        return _runs(self._marked(sequence, start), start, tail)

    def close(self) -> None:
        os.close(self._fd)

    # Inside

    def _collect(self) -> None:
        """What was set in `marks`."""
        bits = self._marks
        if bits is None:
            return
        for start in range(0, len(bits), _STEP):
            step = bits[start : start + _STEP]
            if step.count(0) == len(step):
                continue
            bits[start : start + len(step)] = bytes(len(step))
            block, rest = start * 8, int.from_bytes(step, "little")
            while rest:
                zeros = (rest & -rest).bit_length() - 1
                rest >>= zeros
                ones = (~rest & (rest + 1)).bit_length() - 1
                rest >>= ones
                self.mark(block + zeros, block + zeros + ones - 1)
                block += zeros + ones

    def _marked(self, sequence: int, start: int) -> Iterator[tuple[int, int]]:
        """Runs (first, number) of blocks with a higher mark; those side by side may come apart."""
        for number in sorted(list(self.pages)):
            page, base = self.pages[number], number * PAGE_MARKS
            if base + PAGE_MARKS <= start or max(page) <= sequence:
                continue
            if min(page) > sequence:
                yield base, PAGE_MARKS
                continue
            first = None
            for place, mark in enumerate(page):
                if mark > sequence:
                    first = place if first is None else first
                elif first is not None:
                    yield base + first, place - first
                    first = None
            if first is not None:
                yield base + first, PAGE_MARKS - first

    def _load(self) -> State:
        if self._state is not None:
            return self._state
        number = 0
        if os.fstat(self._fd).st_size == 0:  # made for a file that was not tracked, or is another one now
            return self._anew(number, None)
        try:
            first, second = (os.pread(self._fd, sidecar.SLOT_SIZE, offset) for offset in sidecar.SLOT_OFFSETS)
            state = sidecar.load(first, second, self.key)
            number = state.number
            if state.in_use:
                raise ChangesUnknownError("its last writer did not end in good order")
            if state.stamp != self._stamp():
                raise ChangesUnknownError("it was changed or replaced while nobody tracked it")
            self._read_pages(state)
        except (CorruptDataError, ChangesUnknownError) as error:
            return self._anew(number, error)
        self._tails = list(state.tails)
        self.sequence = state.sequence
        self._state = state
        return state

    def _anew(self, number: int, why: CorruptDataError | ChangesUnknownError | None) -> State:
        """`why`: unless it is the beginning. Raises ChangesUnknownError when the file takes no writes."""
        try:
            state = self._reset(number)
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.EINVAL, errno.EROFS):
                raise
            told = "nothing is tracked yet" if why is None else why.message
            raise ChangesUnknownError(f"{told}: a full backup is due", file=self._name) from error
        if why is not None:
            _log.warning(
                "%s: changed blocks are tracked anew, a full backup is due: %s", self._name, why.message
            )
        return state

    def _reset(self, number: int) -> State:
        """Another UUID; everything counts as changed."""
        os.ftruncate(self._fd, sidecar.MAP_OFFSET)
        self.pages, self._digests, self._dirty = {}, {}, set()
        self.sequence, self._tails = 1, [(1, 0)]
        state = State(number, random_bytes(UUID_SIZE), 1, self._stamp(), (), _NO_PAGES)
        for _ in sidecar.SLOT_OFFSETS:  # so that no later one needs space
            state = self._put(state, in_use=False)
        return state

    def _put(self, state: State, *, in_use: bool, stamp: Stamp | None = None) -> State:
        """The next state, durable."""
        state = replace(
            state,
            number=state.number + 1,
            sequence=self.sequence,
            stamp=stamp or state.stamp,
            tails=tuple(self._tails),
            root=sidecar.root_of(self._digests),
            in_use=in_use,
        )
        _write(self._fd, sidecar.pack(state, self.key), sidecar.slot_offset(state.number))
        os.fdatasync(self._fd)
        self._state = state
        return state

    def _drop_pages(self, first: int) -> None:
        """From that one on, where the disk file is not any more: a tail tells that it became shorter."""
        dropped = [number for number in self.pages if number >= first]
        for number in dropped:
            del self.pages[number]
            self._digests.pop(number, None)
        self._dirty.difference_update(dropped)
        if os.fstat(self._fd).st_size > sidecar.page_offset(first):
            os.ftruncate(self._fd, sidecar.page_offset(first))

    def _write_pages(self) -> None:
        waiting = sorted(self._dirty)
        while waiting:
            count = 1
            while count < min(_RUN, len(waiting)) and waiting[count] == waiting[0] + count:
                count += 1
            run, waiting = waiting[:count], waiting[count:]
            stored = [_stored(self.pages[number]) for number in run]
            _write(self._fd, b"".join(stored), sidecar.page_offset(run[0]))
            self._digests.update(
                (number, hashlib.sha256(page).digest()) for number, page in zip(run, stored, strict=True)
            )
        os.fdatasync(self._fd)
        self._dirty.clear()

    def _read_pages(self, state: State) -> None:
        """Raises MalformedError when it is not the map of that state. No more is read than the disk has."""
        pages: dict[int, array[int]] = {}
        digests: dict[int, bytes] = {}
        size = os.fstat(self._fd).st_size
        if size > sidecar.page_offset(sidecar.pages_of(state.stamp.size)):
            raise MalformedError("bad map of changes", "it is longer than its disk")
        at = sidecar.MAP_OFFSET
        while at < size:
            try:
                at = os.lseek(self._fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                raise
            number = (at - sidecar.MAP_OFFSET) // PAGE_SIZE
            at = sidecar.page_offset(number)
            data = os.pread(self._fd, _RUN * PAGE_SIZE, at)
            for start in range(0, len(data), PAGE_SIZE):
                page = data[start : start + PAGE_SIZE]
                if any(page):
                    if len(page) < PAGE_SIZE or len(pages) >= MAX_PAGES:
                        raise MalformedError("bad map of changes")
                    digests[number] = hashlib.sha256(page).digest()
                    pages[number] = _marks(page)
                number += 1
            at += max(len(data), PAGE_SIZE)
        if sidecar.root_of(digests) != state.root:
            raise MalformedError("bad map of changes")
        self.pages, self._digests, self._dirty = pages, digests, set()


def stamp_of(fd: int, *, with_ctime: bool) -> Stamp:
    """How the file behind `fd` is now. `with_ctime`: its time of change says something, too."""
    info = os.fstat(fd)
    return Stamp(info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns if with_ctime else 0)


def _runs(
    marked: Iterator[tuple[int, int]], start: int, tail: int | None
) -> Iterator[tuple[int, int | None]]:
    """Side by side is one; all from the block `tail` on is the last."""
    first, end = start, start
    for run, count in marked:
        if run + count <= start:
            continue
        if tail is not None and run >= tail:
            break
        if run > end:
            if end > first:
                yield first, end - first
            first = max(run, start)
        end = run + count
    if tail is not None and end >= tail:
        yield (first if end > first else max(tail, start)), None
        return
    if end > first:
        yield first, end - first
    if tail is not None:
        yield max(tail, start), None


def _stored(page: array[int]) -> bytes:
    if sys.byteorder == "big":
        return page.tobytes()
    swapped = page[:]
    swapped.byteswap()
    return swapped.tobytes()


def _marks(data: bytes) -> array[int]:
    page = array("I", data)
    if sys.byteorder != "big":
        page.byteswap()
    return page


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)
