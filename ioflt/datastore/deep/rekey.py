"""What both ways of a deep recrypt share: a new DEK with its header, and ciphertext of old into new."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ioflt.crypto.secret import Secret
from ioflt.crypto.xts import SectorCipher
from ioflt.datastore.datakeys import rewrap, unwrap
from ioflt.datastore.deep.retag import OldTags
from ioflt.datastore.deep.storage import File, Storage
from ioflt.errors import CorruptDataError, IntegrityError, MalformedError, UsageError
from ioflt.format.luks2 import header as luks2
from ioflt.format.luks2 import keyslot, state
from ioflt.format.luks2.layout import (
    DATA_OFFSET,
    HEADER_SIZE,
    HEADERS_SIZE,
    STATE_SLOT_OFFSETS,
    STATE_SLOT_SIZE,
)
from ioflt.format.luks2.recrypt import Recrypt
from ioflt.format.luks2.state import StateBlock
from ioflt.format.luks2.token import IofltToken
from ioflt.format.luks2.token import aad as token_aad
from ioflt.keys.service import KeyService
from ioflt.sectors import round_down
from ioflt.types import SECTOR_SIZE, KeyRef

_ZERO_SECTOR = bytes(SECTOR_SIZE)


def read_header(file: File) -> luks2.Header:
    """The newest valid header, its profile not checked. Raises CorruptDataError."""
    area = bytes(file.pread(HEADERS_SIZE, 0))
    if not any(area):
        raise MalformedError("no header", "nothing or zeros, as in a file never synced before a power cut")
    return luks2.parse(area)


def read_state(file: File, dek: Secret, uuid: str) -> StateBlock:
    """The newest state block of that DEK and UUID. Raises CorruptDataError."""
    slots = [bytes(file.pread(STATE_SLOT_SIZE, offset)) for offset in STATE_SLOT_OFFSETS]
    with state.mac_key(dek, uuid) as key:
        return state.load(slots[0], slots[1], key)


def write_state(file: File, block: StateBlock, dek: Secret, uuid: str) -> None:
    """Into its slot; syncs nothing."""
    with state.mac_key(dek, uuid) as key:
        file.pwrite(state.pack(block, key), STATE_SLOT_OFFSETS[state.slot_of(block)])


def body_size(file: File) -> int:
    """Bytes of the whole sectors of the body."""
    return max(0, round_down(file.size() - DATA_OFFSET))


def verified_dek(header: luks2.Header, keys: KeyService) -> Secret:
    """The DEK of a header, which its digest confirms: all the body depends on it."""
    dek = unwrap(header, keys)
    try:
        luks2.verify_digest(header, dek)
    except BaseException:  # no key stays, whatever it was
        dek.wipe()
        raise
    return dek


@dataclass(frozen=True)
class Future:
    """What a container becomes, its DEK (for the caller to wipe), and the area of its new passphrase slot."""

    change: Recrypt
    dek: Secret
    area: tuple[int, bytes] | None


def new_key(
    header: luks2.Header,
    keys: KeyService,
    by: Sequence[KeyRef],
    uuid: str,
    passphrase: Secret | None,
    *,
    tagged: bool = False,
    beside: bool = False,
) -> Future:
    """A new DEK for the container of `header`, wrapped by each of `by`, for the UUID to be.

    `tagged`: it will have tags, as it has when it has them now.

    A container with recovery slots gets one for `passphrase`: over none of those that it has, or `beside`
    them, in another file. Raises UsageError when there is none, and when
    no place is left for its slot; KeyUnavailableError.
    """
    if header.keyslots and passphrase is None:
        raise UsageError("has recovery slots, which open only the old key")
    tagged = tagged or header.tagged
    ((dek, blob),) = keys.generate(by[0], [token_aad(uuid, header.thin, by[0], tagged=tagged)])
    try:
        token = IofltToken(by[0], header.thin, blob, tagged)
        tokens = [token, *(rewrap(token, keys, uuid, key) for key in by[1:])]
        future = luks2.new(uuid, dek, token).with_tokens(tokens)
        area = None
        if header.keyslots and passphrase is not None:
            present = [] if beside else [keyslot.area_of(header, number) for number in header.keyslots]
            future, offset, material = keyslot.make_keyslot(future, passphrase, dek, avoid=present)
            area = (offset, material)
        return Future(Recrypt.to(future), dek, area)
    except BaseException:  # no key stays, whatever it was
        dek.wipe()
        raise


def old_tags(storage: Storage, header: luks2.Header, dek: Secret) -> OldTags | None:
    """The tags of the container as it is, if it has any. Raises IntegrityError when they are lost."""
    if not header.tagged:
        return None
    file = storage.tags(header.uuid)
    if file is None:
        raise IntegrityError("no tags", "they are missing")
    try:
        return OldTags(file, dek, header.uuid)
    except CorruptDataError as error:
        raise IntegrityError("tags not of this container", str(error)) from None


def exact_length(file: File, block: StateBlock, *, tagged: bool) -> StateBlock:
    """The state block, in which the length of a container with tags is always written out."""
    return replace(block, length=body_size(file)) if tagged and block.length is None else block


def future_dek(header: luks2.Header, change: Recrypt, keys: KeyService) -> Secret:
    """The DEK that a recrypt under way leads to. Raises the first token's error."""
    return unwrap(replace(header.with_tokens(change.tokens), uuid=change.uuid), keys)


class Translation:
    """Ciphertext under the old DEK to ciphertext under the new one, in place; holes stay holes.

    `holes_from`: the byte of the body from which on a sector of zeros was never written; None: nowhere.
    """

    def __init__(self, old: Secret, new: Secret, holes_from: int | None) -> None:
        self._old = SectorCipher(old)
        self._new = SectorCipher(new)
        self.holes_from = holes_from

    def translate(self, block: bytearray, position: int) -> None:
        """`block`: whole sectors, from byte `position` of the body."""
        first = len(block) if self.holes_from is None else max(0, self.holes_from - position)
        view = memoryview(block)
        runs = [(0, min(first, len(block)))] if first else []
        runs += data_runs(block, min(first, len(block)))
        for start, length in runs:
            part, sector = view[start : start + length], (position + start) // SECTOR_SIZE
            self._old.decrypt(part, sector, holes=False)
            self._new.encrypt(part, sector)

    def fill(self, block: bytearray, position: int) -> None:
        """The same, but what was never written is written: encrypted zeros."""
        mark = len(block) if self.holes_from is None else min(len(block), max(0, self.holes_from - position))
        view = memoryview(block)
        self._old.decrypt(view[:mark], position // SECTOR_SIZE, holes=False)
        self._old.decrypt(view[mark:], (position + mark) // SECTOR_SIZE, holes=True)
        self._new.encrypt(view, position // SECTOR_SIZE)

    def wipe(self) -> None:
        """Forget both keys."""
        self._old.wipe()
        self._new.wipe()


def data_runs(block: bytes | bytearray, start: int = 0) -> Iterator[tuple[int, int]]:
    """The runs (offset, length) of sectors that are not all zero, from `start` on."""
    run = start
    for position in range(start, len(block), SECTOR_SIZE):
        if block[position : position + SECTOR_SIZE] == _ZERO_SECTOR:
            if position > run:
                yield run, position - run
            run = position + SECTOR_SIZE
    if len(block) > run:
        yield run, len(block) - run


def header_copies(header: luks2.Header) -> tuple[tuple[bytes, int], tuple[bytes, int]]:
    """(bytes, offset) of both copies in the order in which they are written, each durable before the next."""
    primary, secondary = luks2.serialize(header)
    return (secondary, HEADER_SIZE), (primary, 0)


def holes_from(header: luks2.Header, block: StateBlock) -> int | None:
    """From which byte of the body on zeros were never written."""
    return 0 if header.thin else block.initialised
