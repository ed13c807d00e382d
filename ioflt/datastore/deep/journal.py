"""A container recrypted in place: SPEC.md of `format/luks2`, "Recrypt in place", has steps and reasons.

Each step is a method, and durable when it returns. What a method relies on after an interruption it writes
again first: it may have been read from memory only, where an fsync that failed left it looking clean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from ioflt import ahead
from ioflt.crypto.mac import sha256
from ioflt.crypto.rng import random_bytes
from ioflt.crypto.secret import Secret
from ioflt.datastore.container import Progress
from ioflt.datastore.datakeys import unwrap
from ioflt.datastore.deep import rekey
from ioflt.datastore.deep.rekey import Translation
from ioflt.datastore.deep.retag import NewTags, OldTags
from ioflt.datastore.deep.storage import File, Storage
from ioflt.errors import AuthenticationError, IntegrityError, MalformedError
from ioflt.format.luks2 import header as luks2
from ioflt.format.luks2 import keyslot, recrypt, sidecar
from ioflt.format.luks2.layout import DATA_OFFSET, KEYSLOTS_OFFSET, KEYSLOTS_SIZE
from ioflt.format.luks2.recrypt import Recrypt
from ioflt.format.luks2.sidecar import Slot
from ioflt.format.luks2.state import StateBlock
from ioflt.keys.service import KeyService
from ioflt.sectors import round_down
from ioflt.types import SECTOR_SIZE, KeyRef

#: Bytes that are rewritten at a time.
SEGMENT = 8 << 20


@dataclass(frozen=True)
class _Run:
    """A recrypt of which header and sidecar are in place."""

    header: luks2.Header
    change: Recrypt
    old: Secret
    new: Secret
    slot_key: Secret
    state: StateBlock
    beside: File
    before: OldTags | None
    after: NewTags | None


class _Segment(NamedTuple):
    """Bytes of the body from `start` on; `bad`: numbers of sectors that do not verify."""

    start: int
    block: bytearray
    bad: set[int]


class Journal:
    """The recrypt of the container of `storage`, whose UUID becomes `uuid`. Needs exclusive use of it."""

    def __init__(
        self,
        storage: Storage,
        keys: KeyService,
        by: Sequence[KeyRef],
        uuid: str,
        *,
        file_id: int | None = None,
        passphrase: Secret | None = None,
        tagged: bool = False,
        segment: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`by`: the KEKs of the new DEK. `file_id`: another one than it has. `passphrase`: for the recovery
        slot of a container that has any. `tagged`: it gets tags, if it has none."""
        self._storage = storage
        self._file = storage.container
        self._keys = keys
        self._by = by
        self._uuid = uuid
        self._passphrase = passphrase
        self._file_id = file_id
        self._tagged = tagged
        self._segment = segment or SEGMENT
        self._progress = progress

    def run(self) -> None:
        """From wherever it stands to the end. May be called again after any error or crash.

        Raises UsageError for recovery slots without a passphrase, CorruptDataError, KeyUnavailableError,
        BusyError, OSError; nothing is lost by any.
        """
        header = rekey.read_header(self._file)
        if header.uuid == self._uuid:
            self._conclude(header)
            return
        change = recrypt.of(header)
        resumed = False
        if change is None:
            header, change = self._begin()
        elif change.uuid != self._uuid:
            raise MalformedError("another recrypt", f"to {change.uuid}")
        else:
            resumed = True
        with ExitStack() as secrets:
            run, slot = self._load(header, change, secrets)
            if resumed:
                with self._storage.header_lock():
                    self._write_header(rekey.read_header(self._file))
            if resumed and run.after is not None:
                run.after.renew()
            done = self._settle(run, slot)
            self._convert(run, slot, done)
            self._store_state(run)
            header = self._switch(run)
        self._clean_up(header)

    def _begin(self) -> tuple[luks2.Header, Recrypt]:
        """Sidecar, then what is new in the keyslots area, then the header."""
        with self._storage.header_lock():
            header = rekey.read_header(self._file)
            luks2.check_profile(header)
            with rekey.verified_dek(header, self._keys) as old:
                rekey.read_state(self._file, old, header.uuid)  # else it would not open at the end
                header = self._make_room(header)
                future = rekey.new_key(
                    header, self._keys, self._by, self._uuid, self._passphrase, tagged=self._tagged
                )
                with future.dek as new:
                    rekey.old_tags(self._storage, header, old)  # else nothing could go on
                    begun = recrypt.begin(header, future.change)
                    try:
                        if future.change.tokens[0].tagged:
                            after = NewTags(self._storage.make_tags(self._uuid), new, self._uuid)
                            after.begin(rekey.body_size(self._file))
                        self._make_sidecar(header, future.change, old, new)
                        if future.area is not None:
                            self._write_area(*future.area)
                    except BaseException:  # also after Ctrl-C: no header names the sidecar yet
                        with suppress(OSError):
                            self._storage.remove_sidecar()
                        raise
            self._write_header(begun)
        return begun, future.change

    def _make_room(self, header: luks2.Header) -> luks2.Header:
        """Three passphrase slots leave no room for the new one: the last of them goes first."""
        if self._passphrase is None or keyslot.has_room(header):
            return header
        smaller = header.without_keyslot(header.keyslots[-1]).with_sequence(header.sequence + 1)
        self._write_header(smaller)
        return smaller

    def _make_sidecar(self, header: luks2.Header, change: Recrypt, old: Secret, new: Secret) -> None:
        body = rekey.body_size(self._file)
        segment = max(SECTOR_SIZE, min(self._segment, body))
        beside = self._storage.make_sidecar(sidecar.file_size(segment))
        slot = Slot(1, header.uuid, change.uuid, body, segment, 0, 0, self._storage.mtime())
        with sidecar.mac_key(old, new, header.uuid, change.uuid) as key:
            beside.pwrite(sidecar.pack(slot, key), sidecar.slot_offset(slot.sequence))
        beside.fsync()
        self._storage.sync_sidecars()

    def _write_area(self, offset: int, material: bytes) -> None:
        self._file.pwrite(material, offset)
        self._file.fsync()

    def _write_header(self, header: luks2.Header) -> None:
        for data, offset in rekey.header_copies(header):
            self._file.pwrite(data, offset)
            self._file.fsync()

    def _load(self, header: luks2.Header, change: Recrypt, secrets: ExitStack) -> tuple[_Run, Slot]:
        """Everything that goes on needs, verified. Changes nothing."""
        beside = self._storage.sidecar()
        if beside is None:
            raise MalformedError("no recrypt sidecar", f"of the recrypt to {change.uuid}")
        old = secrets.enter_context(unwrap(header, self._keys))
        new = secrets.enter_context(rekey.future_dek(header, change, self._keys))
        key = secrets.enter_context(sidecar.mac_key(old, new, header.uuid, change.uuid))
        state = rekey.read_state(self._file, old, header.uuid)
        slots = [bytes(beside.pread(sidecar.SLOT_SIZE, offset)) for offset in sidecar.SLOT_OFFSETS]
        for slot in sidecar.load(slots[0], slots[1], key):
            if sidecar.has_journal(slot, self._journal(beside, slot)):
                if rekey.body_size(self._file) != slot.body:
                    raise MalformedError("body changed in a recrypt", f"its size was {slot.body}")
                before = rekey.old_tags(self._storage, header, old)
                return _Run(
                    header, change, old, new, key, state, beside, before, self._after(change, new)
                ), slot
        raise AuthenticationError("no valid recrypt journal")

    def _after(self, change: Recrypt, new: Secret) -> NewTags | None:
        """The tags to be, which `_begin` made."""
        if not change.tokens[0].tagged:
            return None
        file = self._storage.tags(change.uuid)
        if file is None:
            raise IntegrityError("no tags", f"those of the recrypt to {change.uuid} are not there")
        return NewTags(file, new, change.uuid)

    def _settle(self, run: _Run, slot: Slot) -> int:
        """Repair the segment that was being written; the byte behind it."""
        if slot.hot:
            journal = self._journal(run.beside, slot)
            self._protect(run, slot, journal)
            self._rewrite(slot.done, journal)
        self._tell(slot.done + slot.hot)
        return slot.done + slot.hot

    def _convert(self, run: _Run, slot: Slot, done: int) -> None:
        """All segments from `done` on. While one is written the next ones are read and translated."""
        translation = Translation(run.old, run.new, rekey.holes_from(run.header, run.state))

        def translated(segment: _Segment) -> tuple[_Segment, bytes, bytes]:
            translation.translate(segment.block, segment.start)
            journal = bytes(segment.block)
            return segment, journal, sha256(journal)

        try:
            with ahead.worked(translated, self._segments(run, translation, slot, done)) as segments:
                for (start, _, bad), journal, digest in segments:
                    if run.after is not None:  # while it still shows what is bad
                        run.after.put(journal, start, bad)
                        run.after.sync()
                    slot = replace(
                        slot, sequence=slot.sequence + 1, done=start, hot=len(journal), journal_hash=digest
                    )
                    self._protect(run, slot, journal)
                    self._rewrite(start, journal)
                    self._tell(start + len(journal) - done)
                    done = start + len(journal)
            self._tell(slot.body - done)
        finally:
            translation.wipe()

    def _segments(self, run: _Run, translation: Translation, slot: Slot, done: int) -> Iterator[_Segment]:
        """The same as they are."""
        start = done
        while (start := self._next(run, translation, slot.body, start)) < slot.body:
            block = self._file.pread(min(slot.segment, slot.body - start), DATA_OFFSET + start)
            yield _Segment(start, block, set() if run.before is None else run.before.bad(block, start))
            start += len(block)

    def _next(self, run: _Run, translation: Translation, body: int, position: int) -> int:
        """Where the next segment begins: whole holes, by their tags if there are any, are passed over."""
        if translation.holes_from is None or position < translation.holes_from:
            return position
        data = max(position, round_down(self._file.next_data(DATA_OFFSET + position) - DATA_OFFSET))
        return data if run.before is None else run.before.next_written(position, min(data, body))

    def _protect(self, run: _Run, slot: Slot, journal: bytes) -> None:
        """The segment is in the journal: from here on it can be written, and repaired."""
        run.beside.pwrite(journal, sidecar.journal_offset(slot.sequence, slot.segment))
        run.beside.pwrite(sidecar.pack(slot, run.slot_key), sidecar.slot_offset(slot.sequence))
        run.beside.fsync()

    def _rewrite(self, position: int, block: bytes) -> None:
        """The segment, but for its holes."""
        view = memoryview(block)
        for start, length in rekey.data_runs(block):
            self._file.pwrite(view[start : start + length], DATA_OFFSET + position + start)
        self._file.fsync()

    def _store_state(self, run: _Run) -> None:
        """Length, file id and mark, as they will verify; the block of before stays until the switch."""
        file_id = self._file_id or run.state.file_id
        block = replace(run.state, sequence=run.state.sequence + 1, file_id=file_id)
        block = rekey.exact_length(self._file, block, tagged=run.after is not None)
        rekey.write_state(self._file, block, run.new, run.change.uuid)
        self._file.fsync()

    def _switch(self, run: _Run) -> luks2.Header:
        with self._storage.header_lock():
            header = recrypt.end(rekey.read_header(self._file), run.change)
            self._write_header(header)
        return header

    def _conclude(self, header: luks2.Header) -> None:
        """The switch was done, or only seems so: nothing of before goes unless the container opens.

        Without a sidecar all is durable but its removal: that came last.
        """
        luks2.check_profile(header)
        if self._storage.sidecar() is None:
            self._storage.sync_sidecars()
            return
        with unwrap(header, self._keys) as dek:
            rekey.read_state(self._file, dek, header.uuid)
        self._write_header(header)
        self._clean_up(header)

    def _clean_up(self, header: luks2.Header) -> None:
        """The container is what it becomes: what is left of before goes, the sidecar last."""
        self._wipe_free_areas(header)
        beside = self._storage.sidecar()
        if beside is not None:
            slots = [bytes(beside.pread(sidecar.SLOT_SIZE, offset)) for offset in sidecar.SLOT_OFFSETS]
            mtime = sidecar.peek_mtime(slots[0], slots[1])
            if mtime is not None:
                self._storage.set_mtime(mtime)
        self._file.fsync()
        self._storage.remove_sidecar()
        self._storage.sync_sidecars()

    def _wipe_free_areas(self, header: luks2.Header) -> None:
        """Overwrite what former passphrase slots left."""
        end = KEYSLOTS_OFFSET + KEYSLOTS_SIZE
        if self._file.next_data(KEYSLOTS_OFFSET) >= end:
            return
        areas = [keyslot.area_of(header, number) for number in header.keyslots]
        for offset in range(KEYSLOTS_OFFSET, end, SECTOR_SIZE):
            taken = any(area.offset <= offset < area.offset + area.size for area in areas)
            if not taken and any(self._file.pread(SECTOR_SIZE, offset)):
                self._file.pwrite(random_bytes(SECTOR_SIZE), offset)

    def _journal(self, beside: File, slot: Slot) -> bytes:
        return bytes(beside.pread(slot.hot, sidecar.journal_offset(slot.sequence, slot.segment)))

    def _tell(self, done: int) -> None:
        if self._progress is not None and done > 0:
            self._progress(done)
