"""What the kernel knows of: one node per inode, found by its number or by its backing inode."""

from __future__ import annotations

import itertools
import os
import resource
import stat
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pyfuse3
import trio

from ioflt.datastore import files
from ioflt.datastore.home import Home
from ioflt.datastore.openfile import NativeFile, OpenFile
from ioflt.datastore.standing import Standing, Treatment
from ioflt.datastore.vmx import VmxFile
from ioflt.errors import CorruptDataError
from ioflt.format.luks2.layout import DATA_OFFSET
from ioflt.fuse.fastpath import FastFile
from ioflt.fuse.ranges import RangeLocks
from ioflt.fuse.told import Attributes, Identity, Known, ToldNames

#: Seconds that the kernel may keep names and attributes: another mount or command may change the backing
#: file, and this is how long its user waits to see it.
CACHE_S = 1.0

#: Set in the number of a file whose own number another file has already: a raw copy of a container.
_COPY_BIT = 1 << 61

#: Nodes looked at by `Nodes.surplus`: more than one, as some of them are in use.
_SURPLUS = 2

_Stamp = tuple[int, int, int]

#: Nanoseconds in which a file may change twice and show the same time of change.
_TICK_NS = 20_000_000


class Node:
    """An inode that the kernel holds. Owns `path_fd`, an O_PATH descriptor of the backing inode.

    `identity` is kept: the file system may not answer any more when the kernel forgets the inode.
    `parent` and `name` say where it was found last; a file with several links has others, too.
    """

    __slots__ = (
        "_face",
        "_face_stamp",
        "_stamp",
        "entered",
        "fast",
        "file",
        "format",
        "home",
        "identity",
        "lookups",
        "name",
        "names",
        "number",
        "opening",
        "parent",
        "path_fd",
        "ranges",
        "readers",
        "told",
        "treatment",
        "unlinked",
        "writers",
    )

    def __init__(
        self, path_fd: int, info: os.stat_result, home: Home, parent: Node | None, name: str
    ) -> None:
        self.path_fd = path_fd
        self.identity = identity_of(info)
        self.number = 0
        self.format = stat.S_IFMT(info.st_mode)
        self.home = home
        self.entered = home  # the home that counts this file as open, should it be renamed meanwhile
        self.parent = parent
        self.name = name
        self.lookups = 0
        self.unlinked = False
        self.file: OpenFile | None = None
        self.treatment = Treatment.CLEAR
        self.readers = 0
        self.writers = 0
        self.opening = trio.Lock()
        self.fast = FastFile(self._native)
        self.ranges = RangeLocks(self.fast)
        self.names: dict[tuple[Known, str], float] = {}
        self.told: Attributes | None = None
        self._face: files.Face | None = None
        self._face_stamp: _Stamp | None = None
        self._stamp: _Stamp | None = None

    @property
    def is_dir(self) -> bool:
        return self.format == stat.S_IFDIR

    @property
    def is_regular(self) -> bool:
        return self.format == stat.S_IFREG

    @property
    def keyless(self) -> bool:
        """Whether its I/O needs no key."""
        return self.treatment is Treatment.CLEAR

    @property
    def is_top(self) -> bool:
        """Whether it is the datastore's root or the directory of a home."""
        return self.parent is None or (self.is_dir and self.parent.parent is None)

    @property
    def path(self) -> str:
        """Relative to the home (for its top: empty)."""
        parts = []
        node: Node | None = self
        while node is not None and not node.is_top:
            parts.append(node.name)
            node = node.parent
        return "/".join(reversed(parts))

    @property
    def shown(self) -> str:
        """Relative to the datastore, for messages."""
        return os.path.join(self.home.name, self.path)

    def place(self) -> tuple[int, int, str] | None:
        """Where a sealed VMX is to be put."""
        if self.unlinked or self.parent is None:
            return None
        return self.home.fd, self.parent.path_fd, self.name

    def reopen(self, flags: int) -> int:
        """A descriptor of the backing inode with these flags, never O_TRUNC, O_APPEND, O_CREAT, O_DIRECT.

        What is read of headers is no access by the user: access times stay, where we may ask for that.
        """
        path, flags = f"/proc/self/fd/{self.path_fd}", flags | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            return os.open(path, flags | os.O_NOATIME)
        except PermissionError:
            return os.open(path, flags)

    def close(self, close: Callable[[int], None] = os.close) -> None:
        path_fd, self.path_fd = self.path_fd, -1  # somebody's `parent` may be this still
        close(path_fd)

    def found(self, parent: Node, name: str, home: Home) -> None:
        """The backing inode has that name now, whichever it had before."""
        self.parent, self.name, self.home, self.unlinked = parent, name, home, False

    def _native(self) -> NativeFile | None:
        if self.file is None:
            return None
        form = self.file.native()
        return form if form is None or self.writers else replace(form, clamps=False)

    def rebind(self) -> None:
        """After a sealed VMX was replaced: the backing inode is another one."""
        if self.file is not None:
            fd = os.open(f"/proc/self/fd/{self.file.fd}", os.O_PATH | os.O_CLOEXEC)
            os.close(self.path_fd)
            self.path_fd = fd

    def note_stamp(self) -> None:
        """The backing file is about to be looked at: `changed` is false until it is changed after that."""
        info = os.stat(self.path_fd)
        self._stamp = _stamp(info) if abs(time.time_ns() - info.st_ctime_ns) > _TICK_NS else None

    @property
    def changed(self) -> bool:
        """Whether the backing file may have changed since `note_stamp`."""
        return self._stamp is None or self._stamp != _stamp(os.stat(self.path_fd))

    def face(self, info: os.stat_result) -> files.Face:
        """Length and file id of an encrypted file that is not open, without a key."""
        stamp = _stamp(info)
        if self._face is None or self._face_stamp != stamp:
            try:
                fd = self.reopen(os.O_RDONLY)
                try:
                    self._face = files.look(fd, self.treatment)
                finally:
                    os.close(fd)
            except (CorruptDataError, OSError):  # nothing to see: `open` will say what is wrong with it
                self._face = files.Face(max(0, info.st_size - DATA_OFFSET), 0)
            self._face_stamp = stamp
        return self._face

    def attributes(self) -> pyfuse3.EntryAttributes:
        """stat(2) of it, as the user sees it."""
        info = os.stat(self.path_fd)
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = self.number
        entry.st_mode = info.st_mode
        entry.st_nlink = info.st_nlink
        entry.st_uid = info.st_uid
        entry.st_gid = info.st_gid
        entry.st_rdev = info.st_rdev
        entry.st_size = info.st_size
        entry.st_blksize = 4096
        entry.st_blocks = info.st_blocks  # with the header's: a file is never taken for emptier than it is
        entry.st_atime_ns = info.st_atime_ns
        entry.st_mtime_ns = info.st_mtime_ns
        entry.st_ctime_ns = info.st_ctime_ns
        entry.entry_timeout = CACHE_S
        entry.attr_timeout = CACHE_S
        if self.is_regular:
            if isinstance(self.file, VmxFile):
                entry.st_mtime_ns = self.file.mtime_ns
            self.told = self._attributes(info)
            entry.st_size = self.told.length
        return entry

    def note_told(self) -> None:
        """The kernel knows by itself what became of the attributes: it asked for that."""
        with suppress(OSError):  # nobody waits for an answer; the next one is one that is not known
            self.told = self._attributes(os.stat(self.path_fd))

    def attributes_hold(self) -> bool:
        """Whether they are what the kernel was told; what is written here it knows by itself."""
        if self.writers or self.told is None:
            return True
        return self.told == self._attributes(os.stat(self.path_fd))

    def _attributes(self, info: os.stat_result) -> Attributes:
        if self.file is not None and self.writers:
            length = self.file.length
        else:
            length = info.st_size if self.treatment is Treatment.CLEAR else self.face(info).length
        return Attributes(length, info.st_mtime_ns, info.st_ctime_ns)


class Nodes:
    """All nodes of a mount."""

    def __init__(self, root: Node, close: Callable[[int], None]) -> None:
        """`close`: of a descriptor that may be the last of a removed file."""
        self._close = close
        root.number = pyfuse3.ROOT_INODE
        root.lookups = 1
        self._by_number = OrderedDict({root.number: root})
        self._by_identity: dict[Identity, Node] = {root.identity: root}
        self.told = ToldNames()

    def __getitem__(self, number: int) -> Node:
        return self._by_number[number]

    def all(self) -> list[Node]:
        """A copy of the list."""
        return list(self._by_number.values())

    def find(self, info: os.stat_result) -> Node | None:
        """The node of that backing inode."""
        return self._by_identity.get(identity_of(info))

    def enter(
        self, parent: Node, name: str, home: Home, path_fd: int, standing: Standing | None = None
    ) -> Node:
        """The node for the backing inode `path_fd` (O_PATH, taken over), found as `name` in `parent`.

        `standing` of its home, as far as it can be had; for regular files only.
        """
        info = os.stat(path_fd)
        node = self.find(info)
        if node is not None:
            os.close(path_fd)
            node.found(parent, name, home)
            return node
        node = Node(path_fd, info, home, parent, name)
        if node.is_regular and standing is not None:
            node.treatment = self._treatment(node, standing)
            twin = self._replaced_twin(node, info)
            if twin is not None:
                os.close(twin.path_fd)
                twin.path_fd = path_fd
                self.identity_changed(twin)
                twin.found(parent, name, home)
                return twin
        node.number = self._number(node, info)
        self._by_number[node.number] = node
        self._by_identity[node.identity] = node
        return node

    def identity_changed(self, node: Node) -> None:
        """`node` has another backing inode now."""
        self._drop_identity(node)
        node.identity = identity_of(os.stat(node.path_fd))
        self._by_identity[node.identity] = node

    @property
    def crowded(self) -> bool:
        """Whether descriptors run short, though `surplus` was asked for: the kernel is slower than we are."""
        return len(self._by_number) > _descriptors() * 3 // 4

    def surplus(self) -> list[Node]:
        """After a new node: some that the kernel should let go of. Each costs a descriptor, and when half of
        them are in use as many have to go as come.

        Not those in use, and no directories: a process may be in one.
        """
        if len(self._by_number) <= _descriptors() // 2:
            return []
        oldest = list(itertools.islice(self._by_number.values(), _SURPLUS))
        for node in oldest:
            self._by_number.move_to_end(node.number)  # not asked for again before all others were
        return [node for node in oldest if not node.is_dir and node.file is None]

    def forget(self, number: int, lookups: int) -> None:
        """The kernel dropped that many references."""
        node = self._by_number[number]
        node.lookups -= lookups
        self.drop_unused(node)

    def drop_unused(self, node: Node) -> None:
        """Let go of a node that neither the kernel nor a handle holds."""
        if node.lookups > 0 or node.file is not None or node.number == pyfuse3.ROOT_INODE:
            return
        if self._by_number.get(node.number) is node:
            del self._by_number[node.number]
            self._drop_identity(node)
            self.told.forget(node)
            node.close(self._close)

    def _drop_identity(self, node: Node) -> None:
        if self._by_identity.get(node.identity) is node:
            del self._by_identity[node.identity]

    @staticmethod
    def _treatment(node: Node, standing: Standing) -> Treatment:
        if standing.record is None or standing.record.operation is None:
            return node.home.treatment(node.path, standing=standing)
        try:
            fd = node.reopen(os.O_RDONLY)
        except OSError:
            return node.home.treatment(node.path, standing=standing)
        try:
            return node.home.treatment(node.path, fd, standing)
        finally:
            os.close(fd)

    def _replaced_twin(self, node: Node, info: os.stat_result) -> Node | None:
        """The node of the same VMX, whose backing inode another mount's commit has replaced."""
        if node.treatment is not Treatment.VMX:
            return None
        twin = self._by_number.get(node.face(info).file_id)
        if twin is None or twin.treatment is not Treatment.VMX or os.stat(twin.path_fd).st_nlink > 0:
            return None
        return twin

    def _number(self, node: Node, info: os.stat_result) -> int:
        number = info.st_ino
        if node.is_regular and node.treatment is not Treatment.CLEAR:
            number = node.face(info).file_id or number
        while number in self._by_number or number == pyfuse3.ROOT_INODE:
            number = (info.st_ino | _COPY_BIT) if not number & _COPY_BIT else number + 1
        return number


def _descriptors() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _stamp(info: os.stat_result) -> _Stamp:
    return (info.st_ino, info.st_size, info.st_ctime_ns)


def identity_of(info: os.stat_result) -> Identity:
    """Which backing inode that is."""
    return (info.st_dev, info.st_ino)
