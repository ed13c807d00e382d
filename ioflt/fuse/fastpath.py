"""Reads and writes that never enter the interpreter. `_fastpath_src.c` says how; here is who may when.

    use()      before pyfuse3.init
    start()    before pyfuse3.main, as confined as its threads are to be
    stop()     after pyfuse3.main

Each regular file has a `FastFile`. Its requests are answered in C while a handle is open, nothing in
Python works on it, and `OpenFile.native` tells how. Without the C files all of this does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from ioflt.crypto import xts
from ioflt.datastore.openfile import NativeFile
from ioflt.errors import PeerError
from ioflt.filters.trace import Counters
from ioflt.fuse import hook

if TYPE_CHECKING:
    from ioflt.fuse import _hook

_COUNTED = ("reads", "read_bytes", "read_ns", "writes", "write_bytes", "write_ns")

_c: _hook.Extension | None = None


def use() -> None:
    """The next session has threads, if the C files are built."""
    global _c
    extension, loop = hook.extension(), xts.address_of_loop()
    if extension is not None and loop is not None:
        extension.lib.ioflt_use(loop)
        _c = extension


def start() -> None:
    """Raises PeerError when the machine has no thread left."""
    if _c is not None and not _c.lib.ioflt_start(os.cpu_count() or 1):
        raise PeerError("no thread can be started")


def stop() -> None:
    """Whatever they had begun is answered; nothing is taken from the kernel any more."""
    if _c is not None:
        _c.lib.ioflt_stop()


def shut_all(shut: bool) -> None:
    """Whether the requests of all files are for Python."""
    if _c is not None:
        _c.lib.ioflt_shut_all(shut)


def add_to(counters: Counters) -> dict[str, int]:
    """The totals of a mount: those of what passed the chains, and what was done here, which `in_c` counts."""
    totals = {name: getattr(counters, name) for name in counters.__slots__} | {"in_c": 0}
    if _c is not None:
        done = _c.ffi.new("long long[]", len(_COUNTED))
        _c.lib.ioflt_counts(done)
        for name, count in zip(_COUNTED, done, strict=True):
            totals[name] += count
        totals["in_c"] = done[_COUNTED.index("reads")] + done[_COUNTED.index("writes")]
    return totals


class FastFile:
    """`async with fast:` Python works on the file: its requests are for Python, C has ended what it began."""

    __slots__ = ("_file", "_form", "_handles", "_held", "_kept")

    def __init__(self, form: Callable[[], NativeFile | None]) -> None:
        """`form`: how the file is to be read and written, as of now."""
        self._form = form
        self._file: object | None = None
        self._kept: tuple[object, ...] = ()  # memory that the threads change
        self._handles = 0
        self._held = 0

    def add(self, handle: int) -> None:
        """One more; inside `async with`, before the kernel hears of it. Raises MemoryError."""
        if _c is None:
            return
        if self._file is None:
            new = _c.lib.ioflt_file_new()
            if new == _c.ffi.NULL:
                raise MemoryError
            self._file = _c.ffi.gc(new, _c.lib.ioflt_file_free)
        if not _c.lib.ioflt_handle_add(handle, self._file):
            raise MemoryError
        self._handles += 1

    def drop(self, handle: int) -> None:
        """The kernel has released it, if it was added."""
        if _c is not None and _c.lib.ioflt_handle_drop(handle):
            self._handles -= 1

    async def __aenter__(self) -> None:
        self._held += 1
        if self._file is not None and _c is not None and _c.lib.ioflt_file_shut(self._file):
            try:
                with trio.CancelScope(shield=True):  # for as long as what was begun takes
                    await trio.to_thread.run_sync(_c.lib.ioflt_file_wait, self._file)
            except RuntimeError:  # the machine has no thread left
                _c.lib.ioflt_file_wait(self._file)

    async def __aexit__(self, *error: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self._held -= 1
        if _c is None or self._held > 0 or self._handles == 0:
            return
        try:
            form = self._form()
        except OSError:  # of the backing file: whoever comes next hears of it, not who is done
            form = None
        if form is None:
            _c.lib.ioflt_file_stays(self._file)
            return
        chain, bytes_of, null = form.chain, partial(_c.ffi.from_buffer, "unsigned char[]"), _c.ffi.NULL
        length = _c.ffi.from_buffer("uint64_t[]", form.length)
        key = null if chain.key is None else bytes_of(chain.key)
        marks = null if chain.marks is None else bytes_of(chain.marks)
        blocks = 0 if chain.marks is None else len(chain.marks) * 8
        self._kept = (length, marks)
        _c.lib.ioflt_file_open(
            self._file,
            chain.fd,
            chain.start,
            length,
            form.writes,
            chain.holes,
            form.clamps,
            key,
            marks,
            blocks,
        )
