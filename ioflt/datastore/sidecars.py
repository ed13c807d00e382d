"""What lies beside a file in a home's `.ioflt.d` goes with it: its tags, and its changed blocks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from ioflt.datastore import cbtfiles, regular, tagfiles
from ioflt.datastore.header import read_header
from ioflt.datastore.home import Home
from ioflt.errors import CorruptDataError


@contextmanager
def following(home: Home, *names: tuple[int, str]) -> Iterator[None]:
    """What belongs to files that the block takes the last name from goes, too. `names`: (directory, name)."""
    if not (home.standing().integrity or cbtfiles.names(home.fd)):
        yield
        return
    with _opened(names) as found:
        yield
        for fd in found:
            if os.fstat(fd).st_nlink == 0:
                _remove(home, fd)


@contextmanager
def leaving(home: Home, *names: tuple[int, str]) -> Iterator[None]:
    """The block moves files out of the home, which have no tags: their changes are tracked no more."""
    if not cbtfiles.names(home.fd):
        yield
        return
    with _opened(names) as found:
        yield
        for fd in found:
            _remove(home, fd)


def remove_stray_changes(home: Home) -> None:
    """Those of files that are there no more, after each file became another one."""
    strays = set(cbtfiles.names(home.fd))
    for entry in regular.regular_files(home) if strays else []:
        with regular.opened(home, entry.path) as fd:
            strays -= _names(fd)
    for name in strays:
        cbtfiles.remove(home.fd, name)


def follow_copies(old: Home, new: Home, paths: Sequence[str]) -> None:
    """Of copies, at the same paths, those are tracked whose originals are: each from its own beginning."""
    tracked = set(cbtfiles.names(old.fd))
    for path in paths if tracked else []:
        with regular.opened(old, path) as fd:
            if tracked.isdisjoint(_names(fd)):
                continue
        with regular.named(new, path), regular.opened(new, path) as fd:
            name = cbtfiles.name_of(fd, new.treatment(path, fd))
            if name is not None:
                cbtfiles.make(new.fd, name)


@contextmanager
def _opened(names: tuple[tuple[int, str], ...]) -> Iterator[list[int]]:
    flags = os.O_RDONLY | os.O_NOCTTY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with ExitStack() as opened:
        found = []
        for dir_fd, name in names:
            with suppress(OSError):
                found.append(os.open(name, flags, dir_fd=dir_fd))
                opened.callback(os.close, found[-1])
        yield found


def _remove(home: Home, fd: int) -> None:
    for name in _names(fd):
        cbtfiles.remove(home.fd, name)
    uuid = tagfiles.uuid_of(fd)
    if uuid is not None:
        tagfiles.remove(home.fd, uuid)


def _names(fd: int) -> set[str]:
    """What the file of its changes may be called, however it is stored."""
    found = {cbtfiles.of_clear(fd)}
    with suppress(CorruptDataError, OSError):
        found.add(cbtfiles.of_container(read_header(fd).uuid))
    return found
