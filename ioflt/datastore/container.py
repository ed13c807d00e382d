"""One encrypted file: a LUKS2 container, open. Exact lengths, and what must be durable before what.

The body is a multiple of a sector; the length may be any. The state block on the medium says either an
absolute length, or *none*: then the length is the body's size. The rules, from which a crash at any point
leaves the last length that was synced:

- the body may differ from the length only while an absolute length is on the medium: so before the first
  unaligned extension the old length is written and synced;
- every state block is written after the data before it was synced, so that its length and its mark hold;
- *none* is written only when body and length agree;
- cutting: length, fsync, then the body;
- what lies in the body behind the length (from a crash) is dropped by the next extension, never at open;
- in a thick container the mark stands at the body's end, or below, before a hole comes behind it.

What was appended to a thick container and never synced may read as noise after a power cut.

A container with tags never has *none*: its length is always absolute, and a body that is shorter was cut by
somebody else. `filters.tagged` has what must be durable before what of data and tags.

In memory the length runs ahead; `flush` and `sync` write it.

One file, long as it is: length, mark and state block are one state under one lock. What needs none of it is
elsewhere: `stateblocks`, `tagging`, `tracked`.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress

from ioflt import syscalls
from ioflt.crypto.secret import Secret
from ioflt.crypto.xts import SectorCipher
from ioflt.datastore import atomic, cbtfiles, openfile, stateblocks, tagfiles, tagging
from ioflt.datastore.datakeys import unwrap
from ioflt.datastore.header import read_header
from ioflt.datastore.newcontainer import New
from ioflt.datastore.openfile import NativeFile, Writes
from ioflt.datastore.tracked import Tracked
from ioflt.errors import (
    CorruptDataError,
    IntegrityError,
    MalformedError,
    ReadOnlyError,
    StorageError,
)
from ioflt.filters.backing import Backing
from ioflt.filters.base import Link
from ioflt.filters.tagged import Tagged
from ioflt.filters.trace import Counters, Trace
from ioflt.filters.vmcrypt import VmCrypt
from ioflt.filters.written import Within
from ioflt.format.cbt import sidecar
from ioflt.format.luks2 import header as luks2
from ioflt.format.luks2 import state, tags
from ioflt.format.luks2.layout import DATA_OFFSET
from ioflt.format.luks2.state import StateBlock
from ioflt.keys.service import KeyService
from ioflt.sectors import cover, round_down, round_up
from ioflt.types import SECTOR_SIZE

#: Told of bytes done, for a progress bar.
Progress = Callable[[int], None]

#: Bytes of holes that the filler of a thick container looks at in one step.
FILL_STEP = 1 << 20

#: Bytes from which on a range of a thick container is emptied in the background: some 5 ms of filling.
LONG_RANGE = 8 << 20


class Container(Tracked):
    """An open container. Owns `fd`; offsets and lengths are bytes of plaintext.

    See `openfile.OpenFile` for the interface and who keeps calls apart.
    """

    _ctime_tells = False  # which changes with the header, too

    def __init__(
        self,
        fd: int,
        header: luks2.Header,
        dek: Secret,
        *,
        writable: bool,
        counters: Counters | None = None,
        name: str = "",
        tags_in: int | None = None,
        written: Within | None = None,
    ) -> None:
        """Takes over `fd` and `dek`. `tags_in`: the directory of the home, where its tags are if it has any.
        `written` is told what is written to the stored files, but for header and state.

        Raises CorruptDataError when no state block verifies, IntegrityError for want of its tags.
        """
        super().__init__(fd, name)
        self._writable = writable
        self.uuid = header.uuid
        self.thin = header.thin
        self._failed: int | None = None
        self._length_cell = memoryview(bytearray(8)).cast("Q")
        self._lock = threading.Lock()  # state block and length against a sync in another thread
        self._counters = counters
        self._written = written
        self._findings = tagging.Findings(name)
        self._tagged: Tagged | None = None
        self._tags_fd: int | None = None
        try:
            if header.tagged:
                if tags_in is None:
                    raise IntegrityError("no tags", "the container is in no home")
                self._tags_fd = tagfiles.open_file(tags_in, self.uuid, writable=writable)
            self._install(dek)
        except BaseException:  # of what did not open nothing stays
            dek.wipe()
            if self._tags_fd is not None:
                os.close(self._tags_fd)
            raise

    def _install(self, dek: Secret) -> None:
        """Build the chain for this DEK and read the state block."""
        self._mac_key = state.mac_key(dek, self.uuid)
        self._changes_key = sidecar.mac_key(dek, self.uuid)
        try:
            self._cipher = SectorCipher(dek)
            below: Link = Backing(self._fd, DATA_OFFSET, self._written)
            if self._tags_fd is not None:
                found = self._findings
                below = self._tagged = tagging.link(
                    below, self._fd, self._tags_fd, dek, self.uuid, found, self._written
                )
        finally:
            dek.wipe()
        self._crypt = VmCrypt(below, self._cipher, thin=self.thin, initialised=None)
        self._set_chain(self._crypt if self._counters is None else Trace(self._crypt, self._counters))
        try:
            self.refresh()
        except BaseException:  # no key stays of what did not open
            self.wipe()
            raise

    @classmethod
    def open(
        cls,
        fd: int,
        keys: KeyService,
        *,
        writable: bool,
        counters: Counters | None = None,
        name: str = "",
        tags_in: int | None = None,
        needs_tags: bool = False,
        written: Within | None = None,
        new: New | None = None,
    ) -> Container:
        """Open the container in `fd`, which is taken over, and closed on failure.

        `needs_tags`: one without is refused. `new`, also taken over: it was just made. Raises
        CorruptDataError, KeyUnavailableError, OSError.
        """
        try:
            header = read_header(fd) if new is None else new.header
            if needs_tags and not header.tagged:
                raise IntegrityError("no tags", "the file is from before its VM had any")
            dek = unwrap(header, keys) if new is None else new.dek
            return cls(
                fd,
                header,
                dek,
                writable=writable,
                counters=counters,
                name=name,
                tags_in=tags_in,
                written=written,
            )
        except BaseException:  # taken over, so ours to close
            if new is not None:
                new.dek.wipe()
            os.close(fd)
            raise

    def refresh(self) -> None:
        """Read the state block again: somebody else may have written before we got the writer's lock."""
        self._state = stateblocks.load(self._fd, self._mac_key)
        if self._tagged is not None and self._state.length is None:
            raise MalformedError("bad state block", "no length beside tags")
        self.file_id = self._state.file_id
        self._crypt.initialised = self._state.initialised
        body = self._crypt.size()
        # A body cut off inside a sector (a full file system can do that) ends at the last whole one.
        self._length = round_down(body) if self._state.length is None else self._state.length
        # Shorter than its length: somebody cut the file. What is missing reads as zeros, as holes do.
        self._short = body < round_up(self._length)
        self.leave()

    # OpenFile

    @property
    def fd(self) -> int:
        return self._fd

    @property
    def length(self) -> int:
        return self._length

    @property
    def settled(self) -> bool:
        return not self._writable or self._length == self._durable()

    @property
    def closable(self) -> bool:
        at_rest = self._cbt is None or self._cbt.at_rest
        return self.settled and at_rest and (self._tagged is None or self._tagged.at_rest)

    def read(self, offset: int, length: int, *, nowait: bool = False) -> bytes | bytearray | memoryview:
        self._check_failed()
        length = min(length, self._length - offset)
        if length <= 0:
            return b""
        data = self._chain.read(offset, length, nowait=nowait)
        missing = length - len(data)
        if missing and self._tagged is not None:
            have = round_down(offset + len(data))
            self._tagged.check_missing(have, round_up(offset + length) - have)
        # A body shorter than the length: extended before a crash, never written. Holes.
        return data if missing == 0 else bytes(data) + bytes(missing)

    @property
    def verifies(self) -> bool:
        """Whether reads cost tags: large ones are better told of `ahead`."""
        return self._tagged is not None

    def ahead(self, offset: int, length: int) -> AbstractContextManager[None]:
        """Within the block another thread verifies for a `read` of that range, with `nowait`, as it can.

        Raises BlockingIOError instead of disk I/O.
        """
        length = min(length, self._length - offset)
        if self._tagged is None or length <= 0:
            return nullcontext()
        span = cover(offset, length)
        return self._tagged.ahead(span.start, span.size)

    def write_waits(self, offset: int, end: int) -> bool:
        if self._short or self._crypt.initialised is not None:
            return True
        if self._cbt is not None and self._cbt.at_rest:
            return True
        if self._tagged is not None and self._tagged.waits(offset, end - offset):
            return True
        commits = not self.thin or (self._state.length is None and end % SECTOR_SIZE != 0)
        return end > self._length and commits

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self._check_failed()
        if len(data) == 0:
            return
        end = offset + len(data)
        if end > self._length or self._short:
            openfile.check_range(offset, len(data))
            with self._lock:
                self._prepare_extension(offset, end)
                try:
                    self._chain.write(offset, data)
                except OSError:  # half written, for lack of space: what came is not part of the file
                    with suppress(OSError):
                        self._chain.resize(round_up(self._length))
                    raise
                self._length = max(end, self._length)
        elif self._crypt.initialised is None:
            self._chain.write(offset, data)
        else:
            with self._lock:  # apart from the filler, which puts the mtime back
                self._chain.write(offset, data)

    def truncate(self, length: int) -> None:
        self._check_failed()
        openfile.check_range(length, 0)
        if self._cbt is not None:
            self._cbt.begin()
        with self._lock:
            if length > self._length:
                self._extend(length)
            elif length < self._length:
                self._check_writable()
                whole = round_up(length)
                self._commit(length, self._crypt.initialised)
                self._length = length
                if self._crypt.size() > whole:
                    self._chain.resize(whole)
            syscalls.touch(self._fd)

    def allocate(self, mode: int, offset: int, length: int) -> None:
        self._check_failed()
        self._check_writable()
        openfile.check_range(offset, length)
        if self._cbt is not None:
            self._cbt.begin()
        end = offset + length
        if mode in (openfile.ALLOCATE, openfile.ALLOCATE_KEEP_SIZE):
            self._chain.allocate(offset, round_up(end) - offset, keep_size=True)
        elif mode in (openfile.ZERO_RANGE, openfile.ZERO_RANGE_KEEP_SIZE):
            self._empty(offset, end, self._chain.zero)
        elif mode == openfile.PUNCH_HOLE:
            self._empty(offset, end, self._chain.punch)
        else:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if mode in (openfile.ALLOCATE, openfile.ZERO_RANGE):
            with self._lock:
                if end > self._length:
                    self._extend(end)
        syscalls.touch(self._fd)

    def seek(self, offset: int, whence: int) -> int:
        if not 0 <= offset < self._length:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        if whence == os.SEEK_HOLE:
            if not self.thin:
                return self._length
            return min(self._crypt.seek_hole(offset), self._length) if offset < self._crypt.size() else offset
        found = self._crypt.seek_data(offset)
        if found >= self._length:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return found

    @property
    def compiles(self) -> bool:
        return self._tagged is None

    def native(self) -> NativeFile | None:
        chain = None if self._failed is not None or self._short else self._chain.native()
        if chain is None:
            return None
        writes = Writes.INSIDE if chain.writes else Writes.NONE
        if chain.grows and self.thin and self._crypt.size() == round_up(self._length):
            writes = Writes.WHOLE_SECTORS if self._state.length is None else Writes.ANY
        return NativeFile(chain, self._length_cell, writes, clamps=True)

    def flush(self) -> None:
        """Closing: a length that changed, and tags, are made durable; data alone is left to the kernel."""
        if self._writable and not self.settled:
            self.sync(data_only=True)
        if self._tagged is not None and not self._tagged.at_rest:
            try:
                self._tagged.settle()
            except OSError as error:
                self._fail(error)
        if self._cbt is not None:  # last: it notes the times of the file
            self._cbt.settle()

    def leave(self) -> None:
        """Somebody else may write from now on."""
        if self._tagged is not None:
            self._tagged.forget(round_up(self._length))

    def sync(self, *, data_only: bool) -> None:
        self._check_failed()
        if self.settled:
            self._sync_data(data_only=data_only)
            return
        with self._lock:
            self._sync_data(data_only=data_only)
            self._commit(self._to_store(), self._crypt.initialised)

    def sync_data(self, *, data_only: bool) -> None:
        self._check_failed()
        self._sync_data(data_only=data_only)

    def close(self) -> None:
        """Wipe keys, close the descriptors."""
        self.wipe()
        self._close_changes()
        if self._tags_fd is not None:
            os.close(self._tags_fd)
        os.close(self._fd)

    @property
    def sidecar_name(self) -> str:
        return cbtfiles.of_container(self.uuid)

    # Keys

    def wipe(self) -> None:
        """Forget the DEK; I/O is impossible until `rekey`."""
        self._cipher.wipe()
        self._mac_key.wipe()
        self._changes_key.wipe()
        if self._tagged is not None:
            self._tagged.wipe()

    def rekey(self, keys: KeyService) -> None:
        """After `wipe`: get the DEK again and go on. The file must still be the same container."""
        header = read_header(self._fd)
        if header.uuid != self.uuid:
            raise CorruptDataError("another container", f"{header.uuid}, was {self.uuid}", file=self._name)
        self._install(unwrap(header, keys))

    # Thick containers and fillings

    @property
    def unfilled(self) -> bool:
        """Whether part of a thick container still follows the thin rule."""
        return self._crypt.initialised is not None

    def fill_step(self) -> tuple[int, int] | None:
        """The range, (offset, length) in bytes, that the next `fill` of a thick container works on."""
        start = self._crypt.initialised
        if start is None:
            return None
        return start, max(0, min(FILL_STEP, self._crypt.size() - start))

    def fill(self, step: tuple[int, int]) -> None:
        """One step of the filler, under the range lock of `step`: then the mark moves, in memory.

        At the end the mark is dropped on the medium, after the data.
        """
        self._check_failed()
        offset, length = step
        with self._lock:
            if offset != self._crypt.initialised:  # the file was cut since
                return
            if length:
                info = os.fstat(self._fd)
                self._crypt.fill_holes(offset, length)
                atomic.keep_times(self._fd, info)
            if offset + length < self._crypt.size():
                self._crypt.initialised = offset + length
            else:
                self._commit(self._to_store(), None)
                self._crypt.initialised = None

    def save_fill_mark(self) -> None:
        """Write how far the filler came, after the data."""
        self._check_failed()
        with self._lock:
            mark = self._crypt.initialised
            if mark is not None and mark != self._state.initialised:
                self._commit(self._state.length, mark)

    def fill_holes(self, offset: int, length: int) -> int:
        """Write encrypted zeros into the holes of a range of whole sectors; bytes written. Keeps mtime."""
        info = os.fstat(self._fd)
        length = min(length, self._crypt.size() - offset)
        written = self._crypt.fill_holes(offset, length) if length > 0 else 0
        atomic.keep_times(self._fd, info)
        return written

    def scrub(self, progress: Progress) -> tuple[tuple[int, int], ...]:
        """Verify all sectors below the length; the runs (first, number) of those that do not.

        `progress` hears of bytes. Raises IntegrityError when there are no tags.
        """
        if self._tagged is None:
            raise IntegrityError("no tags", "the container has none")
        bad: list[tuple[int, int]] = []
        end = round_up(self._length)
        for offset in range(0, end, tags.AREA):
            length = min(tags.AREA, end - offset)
            if not self._tagged.is_hole(offset, length):
                for first, count in self._tagged.verify(offset, length):
                    start = bad.pop()[0] if bad and sum(bad[-1]) == first else first
                    bad.append((start, first + count - start))
            progress(length)
        if bad and not self._writable:  # whoever writes the file may have cut it meanwhile
            end = round_up(stateblocks.load(self._fd, self._mac_key).length or 0) // SECTOR_SIZE
            bad = [(first, min(count, end - first)) for first, count in bad if first < end]
        return tuple(bad)

    @property
    def body_size(self) -> int:
        """Bytes of the body: a multiple of a sector, except after damage."""
        return self._crypt.size()

    # Inside

    @property
    def _length(self) -> int:
        """In memory that is shared with whoever writes it in C."""
        return int(self._length_cell[0])

    @_length.setter
    def _length(self, length: int) -> None:
        self._length_cell[0] = length

    def _durable(self) -> int:
        """The length as the newest state block has it."""
        return round_down(self._crypt.size()) if self._state.length is None else self._state.length

    def _empty(self, offset: int, end: int, action: openfile.RangeAction) -> None:
        """Punch or zero what of a range lies in the body.

        A long range of a thick container becomes holes above a lowered mark, and the filler follows.
        """
        end = min(end, self._crypt.size())
        if offset >= end:
            return
        mark, known = round_up(offset), self._crypt.initialised
        if not self.thin and end - offset >= LONG_RANGE and (known is None or known > mark):
            with self._lock:
                self._commit(self._state.length, mark)
                self._crypt.initialised = mark
        action(offset, end - offset)

    def _prepare_extension(self, offset: int, end: int) -> None:
        """Before a write that ends at `end`, behind the length: the rules of the module's head."""
        self._check_writable()
        body, whole = self._crypt.size(), round_up(self._length)
        if body > whole:
            self._crypt.resize(whole)
            body = whole
        elif body % SECTOR_SIZE:  # what is left of a sector cannot be decrypted
            body = round_down(body)
            self._crypt.resize(body)
        gap = offset > self._length or body < whole
        mark = self._crypt.initialised
        if gap and not self.thin:
            self._reserve(body, max(round_up(end), whole))
            mark = body if mark is None else min(mark, body)
        length = self._state.length
        if length is None and (end % SECTOR_SIZE or self._short):
            length = self._length
        if length != self._state.length or (mark != self._state.initialised and gap):
            self._commit(length, mark)
        self._crypt.initialised = mark
        if body < whole:
            self._crypt.resize(whole)
            self._short = False
        if gap:
            self._zero_tail()

    def _extend(self, length: int) -> None:
        """Extend with zeros: holes if thin; if thick, space is reserved and the filler follows."""
        self._prepare_extension(length, length)
        self._chain.resize(round_up(length))
        self._length = length

    def _reserve(self, start: int, end: int) -> None:
        """Space for a thick container's body, where the file system can reserve any."""
        if start < end:
            try:
                self._crypt.allocate(start, end - start, keep_size=True)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise

    def _zero_tail(self) -> None:
        """Zero what lies behind the length in its last sector: a cut may have left old bytes there."""
        tail = -self._length % SECTOR_SIZE
        if tail:
            self._chain.zero(self._length, tail)

    def _to_store(self) -> int | None:
        """What the state block says of the length, once the data is synced."""
        return None if self._length == self._crypt.size() and self._tagged is None else self._length

    def _commit(self, length: int | None, initialised: int | None) -> None:
        """A new state block, durable, and what it speaks of durable before it."""
        self._sync_data(data_only=True)
        block = StateBlock(self._state.sequence + 1, length, self.file_id, initialised)
        info = os.fstat(self._fd)
        stateblocks.write(self._fd, block, self._mac_key)
        self._state = block
        atomic.keep_times(self._fd, info)
        self._sync_backing()

    def _sync_data(self, *, data_only: bool) -> None:
        try:
            self._chain.sync(data_only=data_only)
        except OSError as error:
            self._fail(error)

    def _sync_backing(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        """An fsync error is final: the kernel has dropped the pages, what is on the medium is unknown."""
        self._failed = error.errno or errno.EIO
        raise StorageError("writing to the medium failed; the file is shut", self._failed, file=self._name)

    def _check_writable(self) -> None:
        if not self._writable:
            raise ReadOnlyError("opened for reading only", file=self._name)

    def _check_failed(self) -> None:
        if self._failed is not None:
            raise StorageError("shut after a failed fsync", errno.EIO, file=self._name)
