"""Renames and links: what may go where, and what has to be done besides the rename itself."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from ioflt import syscalls
from ioflt.datastore import atomic, clearfiles, files, newcontainer, sidecars
from ioflt.datastore.atomic import Draft
from ioflt.datastore.home import Home
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.standing import Treatment, stored_as
from ioflt.datastore.vmx import Place, seal_new
from ioflt.errors import CrossHomeError
from ioflt.format.vmx.sealed import MAX_PLAINTEXT
from ioflt.types import HomeState


@dataclass(frozen=True, slots=True)
class Move:
    """A rename(2): from name `old` in directory `old_fd` of home `home` to `new` in `new_fd` of `new_home`.

    `top`, `new_top`: that directory is the datastore's root. `flags`: those of renameat2.
    """

    home: Home
    old_fd: int
    old: str
    new_home: Home
    new_fd: int
    new: str
    flags: int
    is_dir: bool
    top: bool
    new_top: bool

    @property
    def exchanges(self) -> bool:
        return bool(self.flags & syscalls.RENAME_EXCHANGE)

    def concerns_clear_files(self) -> bool:
        """Whether an encrypted home keeps a file clear at or below one of the two names."""
        return any(
            clearfiles.has_any(home) and clearfiles.concern(home, home.path_of(parent_fd, name))
            for home, parent_fd, name in (
                (self.home, self.old_fd, self.old),
                (self.new_home, self.new_fd, self.new),
            )
        )

    @property
    def renames_home(self) -> bool:
        return self.is_dir and self.top and self.new_top

    @property
    def converts(self) -> bool:
        """Whether a regular file would be stored otherwise under its new name."""
        if self.home.standing().state is HomeState.CLEAR:
            return False
        return stored_as(self.old) is not stored_as(self.new)


def check_link(home: Home, treatment: Treatment | None, new_home: Home, new: str) -> None:
    """Whether a file may get another link there; `treatment`: None for what is no regular file.

    Raises CrossHomeError, OSError EPERM for a VMX, and for a clear file of an encrypted home.
    """
    _check_homes(home, new_home)
    if home.standing().state is HomeState.CLEAR or treatment is None:
        return
    if treatment is not Treatment.CONTAINER or stored_as(new) is Treatment.VMX:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@contextmanager
def steady(home: Home) -> Iterator[None]:
    """For who makes or removes a name: it comes between no rename of clear files and the record of that.

    Raises ReadOnlyError, BusyError.
    """
    home.check_writable()
    with home.acting() if clearfiles.has_any(home) else nullcontext():
        yield


def remove(home: Home, parent_fd: int, name: str, how: Callable[..., None]) -> None:
    """Remove a name by `how`, which is as os.unlink. A clear file that had it is listed no more.

    Raises ReadOnlyError, BusyError, OSError.
    """
    with steady(home), sidecars.following(home, (parent_fd, name)):
        path = home.path_of(parent_fd, name) if clearfiles.has_any(home) else None
        if path is None or path not in clearfiles.paths(home):
            how(name, dir_fd=parent_fd)
            return
    clearfiles.remove(home, path, parent_fd, lambda: how(name, dir_fd=parent_fd))


def release(home: Home, parent_fd: int, name: str) -> None:
    """Before a file is made: it is encrypted, also where a clear one was removed behind our back."""
    home.check_writable()
    if clearfiles.has_any(home):
        clearfiles.release(home, home.path_of(parent_fd, name))


def rename(move: Move, renamed_home: Home | None) -> None:
    """Do it, where nothing has to be converted. Raises CrossHomeError, ReadOnlyError, OSError."""
    if renamed_home is None:
        with _acting(move):
            _check(move)
            if not move.concerns_clear_files():
                with sidecars.following(move.new_home, (move.new_fd, move.new)), _leaving(move):
                    _rename(move)
                return
        _rename_clear(move)
        return
    _check(move)
    if renamed_home.check_writable().state is HomeState.CLEAR:  # its record is the datastore's matter
        renamed_home.volume.root.check_writable()
    if not move.flags and _is_directory(move.new_fd, move.new):
        # An empty directory gives way to another; what is ours in it does not count, ENOTEMPTY for the rest.
        renamed_home.volume.remove_home(move.new)
    renamed_home.before_rename(move.new)
    _rename(move)
    os.fsync(renamed_home.volume.fd)
    renamed_home.after_rename(move.new)


def _rename_clear(move: Move) -> None:
    """Raises CrossHomeError, and EINVAL for an exchange of what is stored in two ways."""
    home = move.home
    if move.new_home is not home:
        raise CrossHomeError("clear files stay in their home, and keep others off their names", file=move.old)
    old, new = home.path_of(move.old_fd, move.old), home.path_of(move.new_fd, move.new)
    if old == new:
        return
    if not move.exchanges:
        clearfiles.rename(home, old, new, lambda: _rename(move))
        return
    with _acting(move):
        if not {old, new} <= set(clearfiles.paths(home)):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        _rename(move)


def convert(move: Move, source: OpenFile, place: Place, file_id: int) -> OpenFile:
    """Rename to or from *.vmx: the content of `source` under the new name, the old name gone.

    The content is durable, and so is the new name.
    Returns the file, open for writing, locked as `source` is. Keeps owner, mode, mtime and the number.
    """
    with _acting(move):
        _check(move)
        if move.concerns_clear_files():  # let tools copy
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        with sidecars.following(move.home, (move.old_fd, move.old), (move.new_fd, move.new)):
            return _convert(move, source, place, file_id)


def _convert(move: Move, source: OpenFile, place: Place, file_id: int) -> OpenFile:
    if move.flags & syscalls.RENAME_NOREPLACE and _exists(move.new_fd, move.new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    standing = move.home.check_writable()
    keys = move.home.volume.keys
    like = os.fstat(source.fd)
    if like.st_nlink > 1:  # its other names would stay behind, as another file: let tools copy
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    with Draft(move.home.fd) as draft:
        if stored_as(move.new) is Treatment.VMX:
            if source.length > MAX_PLAINTEXT:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            content = bytes(source.read(0, source.length))
            atomic.write_all(draft.fd, seal_new(keys, standing.keys, content, file_id))
        else:
            newcontainer.create(
                draft.fd,
                keys,
                standing.keys,
                thin=not standing.thick,
                file_id=file_id,
                tags_in=move.home.fd if standing.integrity else None,
            )
            copy = files.open_file(
                move.home, os.dup(draft.fd), Treatment.CONTAINER, writable=True, place=lambda: None
            )
            try:
                files.copy_contents(source, copy)
                copy.sync(data_only=False)
                copy.flush()
            finally:
                copy.close()
        atomic.dress(draft.fd, like)
        syscalls.try_write_lock(draft.fd)
        draft.publish_over(move.new_fd, move.new, instead_of=(move.old_fd, move.old))
        return files.open_file(
            move.home, draft.take(), stored_as(move.new), writable=True, place=place, name=move.new
        )


@contextmanager
def _acting(move: Move) -> Iterator[None]:
    """No change of keys meets the move half done: what is moved opens by the keys of where it comes to."""
    with move.home.acting(), nullcontext() if move.new_home is move.home else move.new_home.acting():
        yield


def _check(move: Move) -> None:
    if move.exchanges:
        _check_exchange(move)
    if move.is_dir and move.top != move.new_top:
        raise CrossHomeError("a VM home stays at the top of the datastore", file=move.old)
    if move.renames_home:
        return
    move.home.check_writable()
    if move.home is not move.new_home:
        if move.is_dir or move.exchanges:
            raise CrossHomeError("only files move between homes", file=move.old)
        move.new_home.check_writable()
        _check_homes(move.home, move.new_home)


def _check_exchange(move: Move) -> None:
    """EINVAL for what would have to be converted, and for homes: their records are bound to names."""
    modes = [
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode
        for dir_fd, name in ((move.old_fd, move.old), (move.new_fd, move.new))
    ]
    home = any(map(stat.S_ISDIR, modes)) and (move.top or move.new_top)
    if home or (any(map(stat.S_ISREG, modes)) and move.converts):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def _check_homes(home: Home, new_home: Home) -> None:
    if home is new_home:
        return
    ours, theirs = home.standing(), new_home.standing()
    if ours.state is not theirs.state or (ours.state is HomeState.ENCRYPTED and ours.keys != theirs.keys):
        raise CrossHomeError("the homes have different keys or states", file=home.name)
    if ours.integrity or theirs.integrity:  # its tags would stay behind
        raise CrossHomeError("files with tags stay in their home", file=home.name)


def _leaving(move: Move) -> AbstractContextManager[None]:
    return (
        nullcontext() if move.new_home is move.home else sidecars.leaving(move.home, (move.old_fd, move.old))
    )


def _rename(move: Move) -> None:
    if move.flags:
        syscalls.renameat2(move.old_fd, move.old, move.new_fd, move.new, move.flags)
    else:
        os.rename(move.old, move.new, src_dir_fd=move.old_fd, dst_dir_fd=move.new_fd)


def _is_directory(dir_fd: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _exists(dir_fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
