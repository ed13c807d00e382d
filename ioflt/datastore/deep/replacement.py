"""A container recrypted beside itself: a new one, complete and durable, then in place of the old one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from ioflt import ahead
from ioflt.crypto.secret import Secret
from ioflt.datastore.container import Progress
from ioflt.datastore.deep import rekey
from ioflt.datastore.deep.rekey import Translation
from ioflt.datastore.deep.retag import NewTags, OldTags
from ioflt.datastore.deep.storage import File, Storage
from ioflt.errors import BusyError
from ioflt.format.luks2 import header as luks2
from ioflt.format.luks2 import recrypt
from ioflt.format.luks2.layout import DATA_OFFSET
from ioflt.format.luks2.state import StateBlock
from ioflt.keys.service import KeyService
from ioflt.sectors import round_down
from ioflt.types import KeyRef

#: Bytes that are copied at a time.
CHUNK = 1 << 20


class _Chunk(NamedTuple):
    """Bytes of the body from `start` on; `bad`: numbers of sectors that do not verify."""

    start: int
    block: bytearray
    bad: set[int]


class Replacement:
    """The recrypt of the container of `storage`, in whose place one of the UUID `uuid` comes.

    Needs exclusive use of it. Holes stay holes, but a thick container is filled to its end.
    """

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
        chunk: int = CHUNK,
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
        self._chunk = chunk
        self._progress = progress

    def run(self) -> None:
        """Make it and put it in place; when that was done already, make its name durable.

        Raises UsageError for recovery slots without a passphrase, CorruptDataError (also for a container that
        is being recrypted in place), KeyUnavailableError, BusyError when somebody changed it meanwhile,
        OSError; the old container is then as it was.
        """
        header = rekey.read_header(self._file)
        if header.uuid == self._uuid:
            self._storage.sync_names()
            return
        luks2.check_profile(header)
        with rekey.verified_dek(header, self._keys) as old:
            state = rekey.read_state(self._file, old, header.uuid)
            seen = (self._file.size(), self._storage.mtime())
            # the new file has room for a slot wherever the old one had it
            future = rekey.new_key(
                header, self._keys, self._by, self._uuid, self._passphrase, tagged=self._tagged, beside=True
            )
            with future.dek as new:
                before, after = rekey.old_tags(self._storage, header, old), None
                if future.change.tokens[0].tagged:
                    after = NewTags(self._storage.make_tags(self._uuid), new, self._uuid)
                    after.begin(rekey.body_size(self._file))
                draft = self._storage.make_draft()
                translation = Translation(old, new, rekey.holes_from(header, state))
                self._write_body(draft, translation, header.thin, before, after)
                self._write_front(draft, header, future, state)
                if after is not None:
                    after.sync()
                    self._storage.sync_sidecars()
        self._storage.dress(draft)
        draft.fsync()
        with self._storage.header_lock():
            now = rekey.read_header(self._file)
            if now.sequence != header.sequence or (self._file.size(), self._storage.mtime()) != seen:
                raise BusyError("changed while it was recrypted")
            self._storage.publish(draft)
        self._storage.sync_names()

    def _write_body(
        self,
        draft: File,
        translation: Translation,
        thin: bool,
        before: OldTags | None,
        after: NewTags | None,
    ) -> None:
        body = rekey.body_size(self._file)
        draft.resize(DATA_OFFSET + body)
        change = translation.translate if thin else translation.fill
        done = 0

        def changed(chunk: _Chunk) -> _Chunk:
            change(chunk.block, chunk.start)
            return chunk

        try:
            with ahead.worked(changed, self._chunks(thin, body, before)) as chunks:
                for start, block, bad in chunks:
                    if after is not None:
                        after.put(block, start, bad)
                    view = memoryview(block)
                    for offset, length in rekey.data_runs(block):
                        draft.pwrite(view[offset : offset + length], DATA_OFFSET + start + offset)
                    self._tell(start + len(block) - done)
                    done = start + len(block)
            self._tell(body - done)
        finally:
            translation.wipe()

    def _chunks(self, thin: bool, body: int, before: OldTags | None) -> Iterator[_Chunk]:
        """All that is to be copied, as it is."""
        start = 0
        while (start := self._next(thin, start, body, before)) < body:
            block = self._file.pread(min(self._chunk, body - start), DATA_OFFSET + start)
            yield _Chunk(start, block, set() if before is None else before.bad(block, start))
            start += len(block)

    def _next(self, thin: bool, position: int, body: int, before: OldTags | None) -> int:
        """Where the next chunk begins: whole holes, by their tags if there are any, are passed over."""
        if not thin:
            return position
        data = max(position, round_down(self._file.next_data(DATA_OFFSET + position) - DATA_OFFSET))
        return data if before is None else before.next_written(position, min(data, body))

    def _write_front(
        self, draft: File, header: luks2.Header, future: rekey.Future, state: StateBlock
    ) -> None:
        """Header, passphrase slot, both state blocks."""
        if future.area is not None:
            offset, material = future.area
            draft.pwrite(material, offset)
        for sequence in (1, 2):
            file_id = self._file_id or state.file_id
            block = replace(state, sequence=sequence, initialised=None, file_id=file_id)
            block = rekey.exact_length(self._file, block, tagged=future.change.tokens[0].tagged)
            rekey.write_state(draft, block, future.dek, self._uuid)
        for data, offset in rekey.header_copies(recrypt.end(header, future.change)):
            draft.pwrite(data, offset)

    def _tell(self, done: int) -> None:
        if self._progress is not None and done > 0:
            self._progress(done)
