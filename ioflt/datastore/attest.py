"""What an auditor is told of a datastore: how each file is stored, as its own bytes show; who could read it.

No file is opened by its key. What a name or a record promises counts for nothing: a file is a container or a
sealed VMX if it is one, and else it is clear.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from ioflt.access.decide import decide
from ioflt.access.objects import Place
from ioflt.access.principals import Caller
from ioflt.access.privileges import Privilege
from ioflt.access.state import AccessState
from ioflt.audit.uses import Use, UsesOfVms
from ioflt.crypto.mac import sha256
from ioflt.datastore import regular
from ioflt.datastore.container import Progress
from ioflt.datastore.home import Home
from ioflt.datastore.standing import Standing, is_private
from ioflt.datastore.volume import Volume
from ioflt.errors import CorruptDataError, IofltError, NotFoundError
from ioflt.format.luks2 import header as luks2
from ioflt.format.luks2.layout import HEADERS_SIZE
from ioflt.format.vmx import sealed
from ioflt.format.vmx import text as vmx_text
from ioflt.types import KeyRef

#: The state of a VM that cannot be looked at.
UNREADABLE = "unreadable"

CONTAINER, SEALED, CLEAR = "container", "sealed VMX", "clear"

_LUKS = b"LUKS\xba\xbe"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A regular file. `sha256`: of a container's first 32 KiB, its headers, or of a sealed VMX whole; of
    others None. `uuid`: of a container. `size` on the datastore, `modified` in seconds since 1970.
    `problem`: why nobody can say how it is stored; then it counts as clear.
    """

    path: str
    stored_as: str
    size: int
    modified: int
    uuid: str | None = None
    sha256: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who has Cryptographer.Access on a VM. `why`: by which permissions."""

    who: str
    why: str


@dataclass(frozen=True, slots=True)
class AttestedVm:
    """`could_read`: None for a clear VM, which the modes of its files are all that guards. `record`: SHA-256
    of its record. `problem`: why the record is not believed, or takes no writes.
    """

    name: str
    id: str | None
    state: str
    problem: str | None
    policy: str | None
    keys: list[str]
    thick: bool
    integrity: bool
    could_read: list[Reader] | None
    did_read: list[Use]
    files: list[StoredFile]


@dataclass(frozen=True, slots=True)
class AttestedDatastore:
    """`files`: those that lie in no VM."""

    path: str
    id: str
    verified: bool
    problem: str | None
    default: str
    policy: str | None
    keys: list[str]
    vms: list[AttestedVm]
    files: list[StoredFile]

    def count(self, stored_as: str) -> int:
        """How many files are stored so."""
        return sum(one.stored_as == stored_as for one in self.all_files())

    @property
    def unreadable(self) -> list[str]:
        """The VMs that could not be looked at."""
        return [vm.name for vm in self.vms if vm.state == UNREADABLE]

    def all_files(self) -> list[StoredFile]:
        return [*self.files, *(one for vm in self.vms for one in vm.files)]


@dataclass(frozen=True, slots=True)
class Known:
    """What is told beside the files: permissions, all whom they may concern, and events."""

    access: AccessState
    callers: Sequence[Caller]
    uses: UsesOfVms


def look(volume: Volume, known: Known, progress: Progress | None = None) -> AttestedDatastore:
    """All of a datastore; a VM that cannot be looked at is named. `progress` hears of VMs looked at.

    Raises StorageError.
    """
    standing = volume.root.unverified()
    record = volume.claimed
    vms = []
    for name in volume.homes():
        try:
            vms.append(_vm(volume.home(name), known))
        except (NotFoundError, FileNotFoundError):  # gone meanwhile
            continue
        except (IofltError, OSError) as error:  # all others are reported all the same
            vms.append(_unreadable(name, error))
        if progress is not None:
            progress(1)
    return AttestedDatastore(
        volume.path,
        record.datastore_id,
        volume.root.is_verified,
        standing.problem,
        record.default.value,
        record.policy,
        list(map(str, record.keys)),
        vms,
        _at_the_top(volume),
    )


def _vm(home: Home, known: Known) -> AttestedVm:
    with regular.named(home):
        stored = _stored(home, [entry.path for entry in regular.regular_files(home)])
    try:
        with regular.named(home):
            standing = home.unverified()
    except IofltError as error:
        return AttestedVm(home.name, None, "unknown", error.message, None, [], False, False, None, [], stored)
    record = standing.record
    keys = list(map(str, _keys(standing)))
    return AttestedVm(
        home.name,
        None if record is None else record.home_id,
        standing.state.value,
        standing.problem,
        None if record is None else record.policy,
        keys,
        standing.thick,
        standing.integrity,
        _could_read(home, standing, known),
        [] if record is None else known.uses.of(record.home_id, keys),
        stored,
    )


def _unreadable(name: str, error: IofltError | OSError) -> AttestedVm:
    """A VM of which nothing is known: neither how its files are stored nor who could read them."""
    why = error.message if isinstance(error, IofltError) else error.strerror or str(error)
    return AttestedVm(name, None, UNREADABLE, why, None, [], False, False, None, [], [])


def _keys(standing: Standing) -> tuple[KeyRef, ...]:
    """Those of the VM itself: a clear one has none, though its record is under its datastore's."""
    return standing.keys if standing.record is None else standing.record.keys


def _could_read(home: Home, standing: Standing, known: Known) -> list[Reader] | None:
    if not _keys(standing):
        return None
    vm = None if standing.record is None else standing.record.home_id
    place = Place(vm, home.volume.claimed.datastore_id, home.name)
    decided = [(caller, decide(known.access, caller, Privilege.ACCESS, place)) for caller in known.callers]
    return [Reader(str(caller.principal), decision.why) for caller, decision in decided if decision.allowed]


def _at_the_top(volume: Volume) -> list[StoredFile]:
    with os.scandir(volume.fd) as entries:
        names = sorted(one.name for one in entries if one.is_file(follow_symlinks=False))
    return _stored(volume.root, [name for name in names if not is_private(name)])


def _stored(home: Home, paths: Sequence[str]) -> list[StoredFile]:
    found = []
    for path in paths:
        with regular.named(home, path), suppress(FileNotFoundError):  # gone meanwhile
            found.append(_one(home, path))
    return found


def _one(home: Home, path: str) -> StoredFile:
    try:
        with regular.opened(home, path) as fd:
            return _look(fd, path)
    except FileNotFoundError:
        raise
    except (CorruptDataError, OSError) as error:
        with regular.parent(home, path) as (dir_fd, name):
            info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        return _file(path, info, CLEAR, problem=str(error))


def _look(fd: int, path: str) -> StoredFile:
    info = os.fstat(fd)
    headers = os.pread(fd, HEADERS_SIZE, 0)
    if headers.startswith(_LUKS):
        header = luks2.parse(headers)
        luks2.is_recrypting(header)  # or it is none of ours
        return _file(path, info, CONTAINER, header.uuid, sha256(headers))
    if info.st_size <= vmx_text.MAX_TEXT:
        text = os.pread(fd, vmx_text.MAX_TEXT, 0)
        if sealed.is_sealed(text):
            sealed.peek(text)
            return _file(path, info, SEALED, digest=sha256(text))
    return _file(path, info, CLEAR)


def _file(
    path: str,
    info: os.stat_result,
    stored_as: str,
    uuid: str | None = None,
    digest: bytes | None = None,
    problem: str | None = None,
) -> StoredFile:
    shown = None if digest is None else digest.hex()
    return StoredFile(path, stored_as, info.st_size, int(info.st_mtime), uuid, shown, problem)
