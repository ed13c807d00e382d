"""Verify a datastore: records and files, with keys. Changes nothing; one bad file never stops the rest."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Set
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from ioflt.crypto.secret import Secret
from ioflt.datastore import atomic, records, stateblocks, tagfiles
from ioflt.datastore.chains import Chains
from ioflt.datastore.container import Container, Progress
from ioflt.datastore.deep.disk import SIDECAR
from ioflt.datastore.files import open_regular
from ioflt.datastore.header import check_copies, read_header
from ioflt.datastore.home import Home
from ioflt.datastore.newhome import RESUMED
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.plain import PlainFile
from ioflt.datastore.root import Root
from ioflt.datastore.standing import Standing, Treatment, is_private, stored_as
from ioflt.datastore.vmx import VmxFile, read_sealed
from ioflt.datastore.volume import Volume, split_home_path
from ioflt.datastore.walk import Node, walk
from ioflt.errors import (
    AuthenticationError,
    CorruptDataError,
    IntegrityError,
    IofltError,
    KeyUnavailableError,
    MalformedError,
)
from ioflt.filters.backing import Backing
from ioflt.filters.tagged import named
from ioflt.format.cbt import sidecar
from ioflt.format.luks2 import header as luks2
from ioflt.format.luks2 import state, tags
from ioflt.format.luks2.layout import HEADERS_SIZE
from ioflt.format.record import record as form
from ioflt.format.record.record import HomeRecord
from ioflt.format.vmx import sealed
from ioflt.keys.service import KeyService
from ioflt.sectors import round_up
from ioflt.types import SECTOR_SIZE, HomeState, KeyRef

#: Containers whose keys are asked for at once; each costs a descriptor.
BATCH = 64

_MAGIC = b"LUKS\xba\xbe"


@dataclass(frozen=True, slots=True)
class Entry:
    """One record or file. `state`: "encrypted", "clear", or what else it is. `finding`: None when sound.

    `bad`: runs (first, number) of sectors that do not verify, where data was looked at.
    """

    path: str
    state: str
    finding: str | None = None
    bad: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was looked at, by path."""

    entries: tuple[Entry, ...]

    @property
    def sound(self) -> bool:
        return all(entry.finding is None for entry in self.entries)


def place(path: str | os.PathLike[str]) -> tuple[str, str | None]:
    """The datastore at `path`; or of a VM there: its datastore and its name. By records, not verified."""
    with suppress(IofltError, OSError):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if isinstance(form.parse(records.read(fd)).record, HomeRecord):
                directory, name = split_home_path(path)
                if os.path.lexists(os.path.join(directory, atomic.RECORD)):
                    return directory, name
        finally:
            os.close(fd)
    return os.fspath(path), None


def size(path: str | os.PathLike[str]) -> int:
    """Bytes of the files below, about."""
    return sum(os.lstat(os.path.join(top, name)).st_size for top, _, names in os.walk(path) for name in names)


def run(
    path: str | os.PathLike[str],
    keys: KeyService,
    progress: Progress | None = None,
    *,
    vm: str | None = None,
    data: bool = False,
) -> Report:
    """Check the datastore at `path`; what cannot be verified for want of a key is a finding.

    `vm`: only the VM of that name. `data`: all sectors that have tags, too. `progress` hears of files looked
    at, with `data` of bytes. Raises NotFoundError when there is none, StorageError.
    """
    try:
        volume = Volume.open(path, keys, read_only=True, locked=_no_matter)
    except CorruptDataError as error:
        told = f"{error.reason} ({error.detail})" if error.detail else error.reason
        return Report((Entry(atomic.RECORD, "record", f"{told}; nothing else was checked"),))
    with volume:
        found = list(_Check(volume, progress, vm, data=data).run())
    return Report(tuple(sorted(found, key=lambda entry: entry.path)))


@dataclass(frozen=True, slots=True)
class _Pending:
    """A container whose structure is known, waiting for its keys. Owns `fd`."""

    home: Home
    standing: Standing
    node: Node
    entry: Entry
    fd: int
    header: luks2.Header


class _Check:
    def __init__(self, volume: Volume, progress: Progress | None, vm: str | None, *, data: bool) -> None:
        self._volume = volume
        self._vm = vm
        self._data = data
        self._progress: Progress = progress or (lambda _count: None)
        self._chains = Chains()
        self._file_ids: dict[int, tuple[str, int]] = {}

    def run(self) -> Iterator[Entry]:
        if self._vm is None:
            yield from self._root(self._volume.root)
        for name in self._volume.homes() if self._vm is None else [self._vm]:
            try:
                home = self._volume.home(name)
            except IofltError as error:
                yield Entry(name, "unreadable", error.message)
                continue
            yield from self._home(home)

    def _root(self, root: Root) -> Iterator[Entry]:
        try:
            standing = root.standing()
        except (IofltError, OSError) as error:
            told = f"not verified, nor are files at the top and clear VMs: {_told(error)}"
            yield Entry(atomic.RECORD, root.claimed.default.value, told)
            return
        yield Entry(atomic.RECORD, standing.state.value)
        yield from _drafts(root)
        yield from self._files(root, standing)

    def _home(self, home: Home) -> Iterator[Entry]:
        try:
            standing = home.standing()
        except (IofltError, OSError) as error:
            yield Entry(_join(home, atomic.RECORD), "unknown", _told(error))
            return
        yield self._record(home, standing)
        yield from _drafts(home)
        yield from self._files(home, standing)

    def _record(self, home: Home, standing: Standing) -> Entry:
        entry = Entry(_join(home, atomic.RECORD), standing.state.value, standing.problem)
        if records.stamp(home.fd) is None and all(map(is_private, os.listdir(home.fd))):
            return replace(entry, state="empty", finding=None)
        is_clear = standing.problem is None and standing.state is HomeState.CLEAR
        if is_clear and self._volume.record.default is HomeState.ENCRYPTED:
            return replace(entry, finding="a clear home in a datastore that encrypts")
        return entry

    def _files(self, home: Home, standing: Standing) -> Iterator[Entry]:
        troubles: list[Entry] = []
        entries: list[Entry] = []
        waiting: list[_Pending] = []
        with ExitStack() as open_files:
            for node in walk(home, lambda error: troubles.append(_trouble(home, error))):
                self._chains.see(_join(home, node.path))
                if not self._data:
                    self._progress(1)
                found = self._look(home, standing, node)
                if isinstance(found, Entry):
                    entries.append(found)
                    continue
                open_files.callback(os.close, found.fd)
                waiting.append(found)
                if len(waiting) == BATCH:
                    entries += self._unlock(waiting)
                    waiting = []
                    open_files.close()
            entries += self._unlock(waiting)
        yield from troubles
        for entry in entries:
            chain = self._chains.finding(entry.path)
            yield replace(entry, finding=chain) if entry.finding is None and chain else entry

    def _look(self, home: Home, standing: Standing, node: Node) -> Entry | _Pending:
        """Everything about a file that is no container; of a container its structure."""
        entry = Entry(_join(home, node.path), "unknown")
        if stat.S_ISLNK(node.info.st_mode):
            return replace(entry, state="symbolic link")
        if not node.is_regular:
            return replace(entry, state="special", finding="no regular file, directory or symbolic link")
        try:
            fd = open_regular(node.dir_fd, node.name, os.O_RDONLY)
        except (IofltError, OSError) as error:
            return replace(entry, finding=_told(error))
        keep = False
        try:
            treatment = home.treatment(node.path, fd, standing)
            if treatment is Treatment.CONTAINER:
                entry = replace(entry, state="encrypted")
                found = _structure(fd)
                keep = True
                return _Pending(home, standing, node, entry, fd, found)
            if treatment is Treatment.VMX:
                return self._vmx(home, standing, node, replace(entry, state="encrypted"), fd)
            return self._clear(home, node, replace(entry, state="clear"), fd)
        except _Clear as error:
            return replace(entry, state="clear", finding=error.message)
        except (IofltError, OSError) as error:
            return replace(entry, finding=_told(error))
        finally:
            if not keep:
                os.close(fd)

    def _clear(self, home: Home, node: Node, entry: Entry, fd: int) -> Entry:
        if _is_ours(fd, node.name):
            return replace(entry, finding="an encrypted file, kept as it is in a clear place")
        self._read_descriptor(home, node, PlainFile(fd, Backing(fd, 0)))
        return entry

    def _vmx(self, home: Home, standing: Standing, node: Node, entry: Entry, fd: int) -> Entry:
        text = read_sealed(fd)
        if not sealed.is_sealed(text):
            raise _Clear("clear, in an encrypted home")
        info = sealed.peek(text)
        file = VmxFile(os.dup(fd), self._volume.keys, writable=False, place=lambda: None)
        file.close()
        _check_keys(home, standing, set(info.keys))
        self._take_file_id(info.file_id, entry.path, node.info)
        return entry

    def _unlock(self, waiting: list[_Pending]) -> list[Entry]:
        """The containers' keys in one request, then what they verify."""
        items = [
            (token.key, token.blob, token.aad(one.header.uuid))
            for one in waiting
            for token in one.header.tokens
        ]
        try:
            answers = iter(self._volume.keys.unwrap(items) if items else [])
        except IofltError as error:
            return [replace(one.entry, finding=error.message) for one in waiting]
        entries = []
        for one in waiting:
            mine = [next(answers) for _ in one.header.tokens]
            try:
                entries.append(self._verify(one, mine))
            except (IofltError, OSError) as error:
                entries.append(replace(one.entry, finding=_told(error)))
            finally:
                for answer in mine:
                    if isinstance(answer, Secret):
                        answer.wipe()
        return entries

    def _verify(self, one: _Pending, answers: list[Secret | IofltError]) -> Entry:
        """Raises what is wrong with a container whose header is well-formed; else what its data shows."""
        deks = [answer for answer in answers if isinstance(answer, Secret)]
        for answer in answers:
            # a token of a provider that this host does not have is no damage while another one opens
            if isinstance(answer, IofltError) and not (deks and isinstance(answer, KeyUnavailableError)):
                raise answer
        for dek in deks:
            luks2.verify_digest(one.header, dek)
        _check_keys(one.home, one.standing, {token.key for token in one.header.tokens})
        with state.mac_key(deks[0], one.header.uuid) as mac_key:
            block = stateblocks.load(one.fd, mac_key)
        self._take_file_id(block.file_id, one.entry.path, one.node.info)
        if one.standing.needs_tags and not one.header.tagged:
            raise IntegrityError("no tags", "the file is from before its VM had any")
        container = Container(
            os.dup(one.fd), one.header, deks[0], writable=False, name=one.entry.path, tags_in=one.home.fd
        )
        try:
            _check_length(container, block.length)
            check_copies(one.fd)
            if not (self._data and one.header.tagged):
                self._read_descriptor(one.home, one.node, container)
                return one.entry
            with suppress(IntegrityError):  # which is found below, with all others
                self._read_descriptor(one.home, one.node, container)
            bad = container.scrub(self._progress)
            finding = f"{named(bad)} not verify" if bad else None
            return replace(one.entry, finding=finding, bad=bad)
        finally:
            container.close()

    def _take_file_id(self, file_id: int, path: str, info: os.stat_result) -> None:
        other, inode = self._file_ids.setdefault(file_id, (path, info.st_ino))
        if inode == info.st_ino:
            return
        if stored_as(other) is not stored_as(path):  # no copy has another form
            raise MalformedError(
                "file id used twice", f"by {other}: a rename was interrupted; keep one of them"
            )
        raise MalformedError("file id used twice", f"a raw copy of {other}, or the other way round")

    def _read_descriptor(self, home: Home, node: Node, file: OpenFile) -> None:
        if node.name.lower().endswith(".vmdk"):
            self._chains.add(_join(home, node.path), file)


def _no_matter(_record: object, _error: IofltError) -> None:
    """The datastore's key cannot be had: its homes have keys of their own."""


class _Clear(IofltError):
    """A file without encryption, where it must have one."""


def _structure(fd: int) -> luks2.Header:
    """The header of a container. Raises CorruptDataError; _Clear when nothing of one is in the file."""
    try:
        return read_header(fd)
    except MalformedError as error:
        if os.pread(fd, len(_MAGIC), 0) != _MAGIC and stateblocks.peek(fd) is None:
            if not any(os.pread(fd, HEADERS_SIZE, 0)):
                raise MalformedError("no container", "empty, or zeros where its header was") from None
            raise _Clear("no container: clear, or its whole header is lost, in an encrypted home") from None
        raise MalformedError("header unusable", str(error)) from None


def _check_keys(home: Home, standing: Standing, keys: Set[KeyRef]) -> None:
    """A file that opens by the key of another home was put here behind the mount's back.

    Each key of the home opens each file, but for those added by a recrypt that is under way.
    """
    if not home.is_root and standing.record is None:
        return
    if not keys & set(standing.keys):
        raise AuthenticationError("another home's key", ", ".join(map(str, keys)))
    if standing.record is not None and standing.record.operation is None and set(standing.keys) - keys:
        lacking = ", ".join(str(key) for key in standing.keys if key not in keys)
        raise MalformedError("not under every key of its home", lacking)


def _check_length(container: Container, length: int | None) -> None:
    body = container.body_size
    if length is None and body % SECTOR_SIZE:
        raise MalformedError("body ends inside a sector", f"{body} bytes")
    if length is not None and body < round_up(length):
        raise MalformedError("truncated body", f"{body} bytes, the length is {length}")


def _is_ours(fd: int, name: str) -> bool:
    try:
        if stored_as(name) is Treatment.VMX:
            sealed.peek(os.pread(fd, sealed.PEEK_SIZE, 0))
        else:
            read_header(fd)
    except CorruptDataError:
        return False
    return True


def _drafts(home: Home) -> Iterator[Entry]:
    used = set() if not any(tagfiles.uuids(home.fd)) else _tagged(home)
    try:
        fd = os.open(atomic.PRIVATE_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=home.fd)
    except FileNotFoundError:
        return
    except OSError as error:
        yield Entry(_join(home, atomic.PRIVATE_DIR), "unreadable", _told(error))
        return
    try:
        for name in sorted(os.listdir(fd)):
            path = _join(home, os.path.join(atomic.PRIVATE_DIR, name))
            if name.startswith(SIDECAR):
                yield Entry(path, "sidecar", "of a deep recrypt that was interrupted")
            elif name.endswith(sidecar.SUFFIX):
                continue  # one of a file that is gone harms nobody
            elif name.endswith(tags.SUFFIX):
                if name.removesuffix(tags.SUFFIX) not in used:
                    yield Entry(path, "tags", "of a file that is gone; a deep recrypt removes them")
            elif name.startswith(RESUMED):
                yield Entry(path, "draft", "a restore was interrupted; the same command goes on with it")
            else:
                yield Entry(path, "draft", "left over by an interruption; the next mount removes it")
    finally:
        os.close(fd)


def _tagged(home: Home) -> set[str]:
    """The UUIDs of the containers that have tags."""
    found = set()
    for node in walk(home, lambda _error: None):
        if node.is_regular:
            with suppress(IofltError, OSError):
                fd = open_regular(node.dir_fd, node.name, os.O_RDONLY)
                try:
                    found.add(tagfiles.uuid_of(fd) or "")
                finally:
                    os.close(fd)
    return found


def _trouble(home: Home, error: OSError) -> Entry:
    return Entry(_join(home, os.path.normpath(str(error.filename))), "unreadable", _told(error))


def _told(error: IofltError | OSError) -> str:
    if isinstance(error, IofltError):
        return error.message
    return error.strerror or str(error)


def _join(home: Home, path: str) -> str:
    return os.path.join(home.name, path) if home.name else path
