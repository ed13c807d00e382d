"""A VMX of an encrypted home, open: one buffer for all its handles, sealed anew when it is written back."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from ioflt import syscalls
from ioflt.crypto.secret import Secret
from ioflt.datastore import atomic, openfile
from ioflt.errors import MalformedError, ProviderLocked, ReadOnlyError
from ioflt.format.vmx import sealed
from ioflt.format.vmx.sealed import MAX_PLAINTEXT
from ioflt.keys.service import KeyService
from ioflt.types import KeyRef

#: A sealed file is base64 of the plaintext plus a few kilobytes of clear lines and key safe.
MAX_SEALED = MAX_PLAINTEXT * 2

#: Where the file lies now: (top of the home, directory, name), or None when it was unlinked.
Place = Callable[[], tuple[int, int, str] | None]


def seal_new(keys: KeyService, by: Sequence[KeyRef], plaintext: bytes, file_id: int) -> bytes:
    """A new sealed VMX that each of the keys `by` opens."""
    text = keys.seal_vmx(by[0], plaintext, file_id)
    return text if len(by) == 1 else keys.rewrap_vmx(text, by)


def open_sealed(keys: KeyService, text: bytes, by: KeyRef | None = None) -> bytes:
    """The plaintext of a sealed VMX, by that key or any that can be had.

    Raises CorruptDataError, KeyUnavailableError.
    """
    with keys.config_key(text, by) as key:
        return sealed.open_with(text, key)


def read_sealed(fd: int) -> bytes:
    """The whole sealed text. Raises MalformedError when it is too large."""
    text = b""
    while len(text) <= MAX_SEALED and (more := os.pread(fd, MAX_SEALED + 1 - len(text), len(text))):
        text += more
    if len(text) > MAX_SEALED:
        raise MalformedError("too large", f"a sealed VMX has at most {MAX_SEALED} bytes")
    return text


class VmxFile:
    """Owns `fd`, the sealed file as it was opened or last committed.

    A commit replaces the file atomically, so `fd` then is another inode; owner, mode and times stay.
    `place` tells where to. It holds the configuration key, as a container holds its DEK: what was opened is
    saved although the key of its VM cannot be had any more.
    """

    def __init__(self, fd: int, keys: KeyService, *, writable: bool, place: Place) -> None:
        """Takes over `fd`, closed on failure. Raises CorruptDataError, KeyUnavailableError."""
        self._fd = fd
        self._keys = keys
        self._writable = writable
        self._place = place
        self._lock = threading.Lock()
        self._text = b""
        self._key: Secret | None = None
        try:
            self.refresh()
        except BaseException:  # taken over, so ours to close
            os.close(fd)
            raise

    def refresh(self) -> None:
        """Read the file again: somebody else may have written before we got the writer's lock.

        keyd is asked unless the key safe is the one that it opened for us before.
        """
        text = read_sealed(self._fd)
        info = sealed.peek(text)
        key = self._key if self._is_safe_of(info) else None
        key = key or self._keys.config_key(text)
        self._buffer = bytearray(sealed.open_with(text, key))
        self._text, self._key = text, key
        self.file_id = info.file_id
        self._mtime = os.fstat(self._fd).st_mtime_ns
        self._dirty = False

    def _is_safe_of(self, info: sealed.SealedInfo) -> bool:
        if not self._text:
            return False
        held = sealed.peek(self._text)
        return (info.safe, info.file_id) == (held.safe, held.file_id)

    def follow(self) -> bool:
        """Go over to the file that has our name now, should another mount have committed; `refresh` follows.

        Returns whether it is another one. Raises OSError ESTALE when a different VMX has the name.
        """
        place = self._place()
        if place is None:
            return False
        _, parent_fd, name = place
        flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_RDWR if self._writable else os.O_RDONLY)
        fd = os.open(name, flags, dir_fd=parent_fd)
        try:
            if os.path.samestat(os.fstat(fd), os.fstat(self._fd)):
                return False
            if sealed.peek(read_sealed(fd)).file_id != self.file_id:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            self._fd, fd = fd, self._fd
            return True
        finally:
            os.close(fd)

    @property
    def fd(self) -> int:
        return self._fd

    @property
    def length(self) -> int:
        return len(self._buffer)

    @property
    def settled(self) -> bool:
        return not self._dirty

    @property
    def mtime_ns(self) -> int:
        """When the buffer was last written: what `stat` shows until the commit."""
        return self._mtime

    @property
    def closable(self) -> bool:
        return self.settled

    def read(self, offset: int, length: int, *, nowait: bool = False) -> bytes | bytearray | memoryview:
        self._open_key()
        with self._lock:
            return bytes(self._buffer[offset : offset + length])

    def write_waits(self, offset: int, end: int) -> bool:
        return False

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        if len(data) == 0:
            return
        self._check_size(offset + len(data))
        with self._lock:
            if offset > len(self._buffer):
                self._buffer.extend(bytes(offset - len(self._buffer)))
            self._buffer[offset : offset + len(data)] = data
            self._touch()

    def truncate(self, length: int) -> None:
        self._check_size(length)
        with self._lock:
            if length < len(self._buffer):
                self._buffer[length:] = bytes(0)
            else:
                self._buffer.extend(bytes(length - len(self._buffer)))
            self._touch()

    def allocate(self, mode: int, offset: int, length: int) -> None:
        end = offset + length
        self._check_size(end if mode in (openfile.ALLOCATE, openfile.ZERO_RANGE) else 0)
        if mode in (openfile.PUNCH_HOLE, openfile.ZERO_RANGE_KEEP_SIZE, openfile.ZERO_RANGE):
            with self._lock:
                stop = min(end, len(self._buffer))
                if offset < stop:
                    self._buffer[offset:stop] = bytes(stop - offset)
                    self._touch()
        elif mode not in (openfile.ALLOCATE, openfile.ALLOCATE_KEEP_SIZE):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if mode in (openfile.ALLOCATE, openfile.ZERO_RANGE) and end > len(self._buffer):
            self.truncate(end)

    def seek(self, offset: int, whence: int) -> int:
        if not 0 <= offset < len(self._buffer):
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return offset if whence == os.SEEK_DATA else len(self._buffer)

    @property
    def compiles(self) -> bool:
        return False

    def native(self) -> None:
        return None

    def flush(self) -> None:
        self.commit()

    def sync(self, *, data_only: bool) -> None:
        if self._dirty:
            self.commit()
        else:
            os.fsync(self._fd)

    def sync_data(self, *, data_only: bool) -> None:
        os.fsync(self._fd)

    def commit(self) -> None:
        """If dirty: seal the buffer, put it in the file's place, durably."""
        with self._lock:
            place = self._place()
            if not self._dirty or place is None:
                return
            if not self._is_at(place[1], place[2]):
                return
            text = sealed.reseal(self._text, self._open_key(), bytes(self._buffer))
            self._put(place, text, self._mtime)
            self._dirty = False

    def reseal(self, change: Callable[[bytes], bytes | None]) -> None:
        """Put what `change` makes of the sealed text in its place, durably; None: nothing. It is as it was
        last committed, with all its times, and later commits keep its new key safe."""
        with self._lock:
            place = self._place()
            if place is None or not self._is_at(place[1], place[2]):
                return
            text = change(self._text)
            if text is not None:
                self._put(place, text, os.fstat(self._fd).st_mtime_ns)

    def _put(self, place: tuple[int, int, str], text: bytes, mtime_ns: int) -> None:
        """Replace the file, which is at `place`; `self._lock` is held."""
        top_fd, parent_fd, name = place
        with atomic.Draft(top_fd) as draft:
            atomic.write_all(draft.fd, text)
            info = os.fstat(self._fd)
            atomic.dress(draft.fd, info)
            os.utime(draft.fd, ns=(info.st_atime_ns, mtime_ns))
            syscalls.try_write_lock(draft.fd)  # the writer's lock moves with the file
            try:
                draft.publish_over(parent_fd, name)
            finally:
                if _has_name(draft.fd, parent_fd, name):  # also when only its durability failed
                    old, self._fd, self._text = self._fd, draft.take(), text
                    os.close(old)

    def _is_at(self, parent_fd: int, name: str) -> bool:
        """Whether the name is still ours. Unlinked by another mount: there is nothing to commit to.

        Raises OSError ESTALE when another mount put a file of its own there.
        """
        if _has_name(self._fd, parent_fd, name):
            return True
        with suppress(FileNotFoundError):
            os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return False

    def set_mtime(self, mtime_ns: int) -> None:
        """utimens(2) on an open VMX: survives the next commit."""
        self._mtime = mtime_ns

    def close(self) -> None:
        self.wipe()
        os.close(self._fd)

    def wipe(self) -> None:
        """Forget the key, and the plaintext as far as Python can; `rekey` reads it again. The length stays
        to be seen.
        """
        with self._lock:
            self._buffer[:] = bytes(len(self._buffer))
            self._dirty = False  # nothing must put zeros in the file's place
            if self._key is not None:
                self._key.wipe()
                self._key = None

    def rekey(self, keys: KeyService) -> None:
        """After `wipe`: open it again."""
        self._keys = keys
        self.refresh()

    def _touch(self) -> None:
        self._dirty = True
        syscalls.touch(self._fd)  # the kernel's clock, for a time that compares with those of other files
        self._mtime = os.fstat(self._fd).st_mtime_ns

    def _open_key(self) -> Secret:
        if self._key is None:  # an unlock could not open it again
            raise ProviderLocked("shut since its key was locked")
        return self._key

    def _check_size(self, length: int) -> None:
        self._open_key()
        if not self._writable:
            raise ReadOnlyError("opened for reading only")
        if length > MAX_PLAINTEXT:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))


def _has_name(fd: int, dir_fd: int, name: str) -> bool:
    """Whether `name` is the file behind `fd`."""
    try:
        return os.path.samestat(os.stat(name, dir_fd=dir_fd, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False
