"""What a stored file is, as far as that shows without a key. Nothing is verified, nothing is written."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace

from ioflt.datastore import files, stateblocks
from ioflt.datastore.standing import Treatment, is_private
from ioflt.errors import CorruptDataError, MalformedError
from ioflt.format import dictionary
from ioflt.format.keysafe import safe
from ioflt.format.luks2 import header as luks2
from ioflt.format.luks2.layout import CIPHER, DATA_OFFSET, HEADER_SIZE, HEADERS_SIZE
from ioflt.format.luks2.token import INTEGRITY
from ioflt.format.record import record as form
from ioflt.format.record.record import DatastoreRecord, Deep, Move, Operation, Recrypt, Rename
from ioflt.format.vmdk import descriptor, sparse
from ioflt.format.vmx import sealed
from ioflt.format.vmx import text as vmx_text
from ioflt.types import SECTOR_SIZE

_LUKS_MAGICS = (b"LUKS\xba\xbe", b"SKUL\xba\xbe")
_SPARSE_MAGICS = {b"KDMV": "sparse VMDK", b"COWD": "VMFS sparse VMDK"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Sizes in bytes; None where it does not apply. `problem`: why the file is not what it seems to be.

    `length` is what the newest state block, or the clear line of a sealed VMX, claims; `body_size` is what
    the file has behind the header. `keys` name the KEKs, `opened_by` what opens a key safe.
    """

    file: str
    kind: str
    problem: str | None = None
    size: int
    allocated: int
    uuid: str | None = None
    cipher: str | None = None
    key_bits: int | None = None
    sector_size: int | None = None
    provisioning: str | None = None
    integrity: str | None = None
    sequence: int | None = None
    keys: tuple[str, ...] = ()
    opened_by: tuple[str, ...] = ()
    recovery_slots: tuple[int, ...] = ()
    length: int | None = None
    body_size: int | None = None
    file_id: int | None = None
    state_sequence: int | None = None
    filled_up_to: int | None = None
    display_name: str | None = None
    create_type: str | None = None
    capacity: int | None = None
    named_files: tuple[str, ...] = ()
    datastore_id: str | None = None
    home_id: str | None = None
    state: str | None = None
    policy: str | None = None
    clear_files: tuple[str, ...] = ()
    operation: str | None = None


def describe(path: str | os.PathLike[str]) -> Description:
    """What the file at `path` is.

    Raises MalformedError for what is no regular file and for a text of absurd size, OSError.
    """
    name = os.fspath(path)
    info = os.lstat(name)
    if not stat.S_ISREG(info.st_mode):
        raise MalformedError("not a regular file", _what(info.st_mode), file=name)
    fd = files.open_regular(None, name, os.O_RDONLY)
    try:
        info = os.fstat(fd)
        found = Description(file=name, kind="unknown", size=info.st_size, allocated=info.st_blocks * 512)
        return _describe(fd, found)
    except CorruptDataError as error:
        error.file = name
        raise
    finally:
        os.close(fd)


def _what(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((word for test, word in kinds if test(mode)), "a device")


def _describe(fd: int, found: Description) -> Description:
    area = os.pread(fd, HEADERS_SIZE, 0)
    if not area:
        return replace(found, kind="empty file")
    if _is_luks(area) or stateblocks.peek(fd) is not None:
        return _luks(fd, area, found)
    if area[:4] in _SPARSE_MAGICS:
        return _tried(_sparse, os.pread(fd, sparse.PROBE_SIZE, 0), found, _SPARSE_MAGICS[area[:4]])
    base = os.path.basename(found.file)
    is_text = b"\0" not in area[:512]
    if is_private(base):
        return _tried(_record, _text(fd, found, form.MAX_SIZE), found, "record")
    if descriptor.is_descriptor(area):
        return _tried(_descriptor, _text(fd, found, descriptor.MAX_SIZE), found, "VMDK descriptor")
    if base.lower().endswith(".vmx") or (is_text and vmx_text.KEY_SAFE.encode() in area):
        return _vmx(_text(fd, found, vmx_text.MAX_TEXT), found)
    if area.startswith(b'{"format":'):
        return _tried(_record, _text(fd, found, form.MAX_SIZE), found, "record")
    return found


def _is_luks(area: bytes) -> bool:
    """By either magic, so that one lost copy does not hide the other."""
    primary, secondary = _LUKS_MAGICS
    return area.startswith(primary) or area.startswith(secondary, HEADER_SIZE)


def _text(fd: int, found: Description, limit: int) -> bytes:
    if found.size > limit:
        raise MalformedError("too large", f"{found.size} bytes of text, at most {limit}")
    return os.pread(fd, limit, 0)


def _tried(
    look: Callable[[bytes, Description], Description], data: bytes, found: Description, kind: str
) -> Description:
    """`look(data, found)`; where that fails, the kind that it seemed to be, and the problem."""
    try:
        return look(data, replace(found, kind=kind))
    except CorruptDataError as error:
        return replace(found, kind=kind, problem=str(error))


def _luks(fd: int, area: bytes, found: Description) -> Description:
    try:
        header = luks2.parse(area)
    except CorruptDataError as error:
        return _with_state(fd, replace(found, kind="LUKS2 container, header unusable", problem=str(error)))
    found = replace(found, uuid=header.uuid, sequence=header.sequence)
    try:
        recrypting = luks2.is_recrypting(header)
    except CorruptDataError as error:
        return replace(found, kind="foreign LUKS2 container", problem=str(error))
    return _with_state(
        fd,
        replace(
            found,
            kind="LUKS2 container of ioflt",
            problem="recrypt under way" if recrypting else None,
            cipher=CIPHER,
            key_bits=512,
            sector_size=SECTOR_SIZE,
            provisioning="thin" if header.thin else "thick",
            integrity=INTEGRITY if header.tagged else None,
            keys=tuple(str(token.key) for token in header.tokens),
            recovery_slots=header.keyslots,
        ),
    )


def _with_state(fd: int, found: Description) -> Description:
    body_size = max(0, found.size - DATA_OFFSET)
    block = stateblocks.peek(fd)
    if block is None:
        return replace(found, body_size=body_size, problem=found.problem or "no state block")
    return replace(
        found,
        body_size=body_size,
        length=files.look(fd, Treatment.CONTAINER).length,
        file_id=block.file_id,
        state_sequence=block.sequence,
        filled_up_to=block.initialised,
    )


def _sparse(data: bytes, found: Description) -> Description:
    if data[:4] != sparse.MAGIC:
        return found
    header = sparse.parse(data)
    found = replace(found, capacity=header.capacity * 512)
    text = sparse.descriptor_of(data)
    if text is None:
        return found
    inner = _descriptor(text, found)
    return replace(inner, capacity=found.capacity)


def _descriptor(data: bytes, found: Description) -> Description:
    parsed = descriptor.parse(data)
    return replace(
        found,
        create_type=parsed.create_type,
        capacity=parsed.sectors * 512,
        named_files=parsed.file_names,
    )


def _vmx(data: bytes, found: Description) -> Description:
    if not sealed.is_sealed(data):
        return _tried(_clear_vmx, data, found, "clear VMX")
    try:
        info = sealed.peek(data)
    except CorruptDataError:
        return _tried(_foreign_vmx, data, found, "VMX encrypted by VMware")
    return replace(
        found,
        kind="sealed VMX",
        cipher="AES-256-CBC with HMAC-SHA-256",
        keys=tuple(map(str, info.keys)),
        opened_by=info.locators,
        length=info.length,
        file_id=info.file_id,
        display_name=info.display_name,
    )


def _foreign_vmx(data: bytes, found: Description) -> Description:
    vmx = vmx_text.parse(data)
    pairs = safe.parse(vmx.safe).pairs
    opened_by = tuple(map(safe.describe, pairs))
    kind = "VMX encrypted by VMware under a passphrase" if "passphrase" in opened_by else found.kind
    return replace(found, kind=kind, opened_by=opened_by, display_name=vmx.lines.get("displayName"))


def _clear_vmx(data: bytes, found: Description) -> Description:
    return replace(found, display_name=dictionary.parse(data).get("displayName"), length=found.size)


def _record(data: bytes, found: Description) -> Description:
    record = form.parse(data).record
    if isinstance(record, DatastoreRecord):
        return replace(
            found,
            kind="datastore record",
            datastore_id=record.datastore_id,
            keys=tuple(map(str, record.keys)),
            state=record.default.value,
            policy=record.policy,
            operation=None if record.operation is None else _operation(record.operation),
        )
    operation = record.operation
    return replace(
        found,
        kind="home record",
        datastore_id=record.datastore_id,
        home_id=record.home_id,
        keys=tuple(map(str, record.keys)),
        state=record.state.value,
        provisioning="thick" if record.thick else "thin",
        integrity=INTEGRITY if record.integrity else None,
        policy=record.policy,
        clear_files=record.clear_files,
        operation=None if operation is None else _operation(operation),
    )


def _operation(operation: Operation | Recrypt | Deep | Move | Rename) -> str:
    if isinstance(operation, Move):
        return f"move into the datastore {operation.datastore_id}"
    if isinstance(operation, Rename):
        return f"rename of {operation.old} to {operation.new}"
    if isinstance(operation, Recrypt):
        return f"recrypt to {', '.join(map(str, operation.to))}"
    return f"{operation.kind}, {len(operation.pending)} files left"
