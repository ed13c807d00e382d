"""A deep recrypt is crashed at every call, and while it recovers from that, over a storage that loses,
tears and reorders; always the container opens with all its bytes, or nobody opens it and the recrypt goes on.

The engine is the real one. Its mutants, each with one mistake, show that the model would have caught it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from ioflt.crypto.rng import new_uuid
from ioflt.crypto.xts import SectorCipher
from ioflt.datastore.datakeys import unwrap
from ioflt.datastore.deep import rekey
from ioflt.datastore.deep.journal import Journal
from ioflt.datastore.deep.replacement import Replacement
from ioflt.datastore.deep.retag import NewTags, OldTags
from ioflt.errors import CorruptDataError
from ioflt.format.luks2 import header as luks2
from ioflt.format.luks2 import profile, recrypt, sidecar
from ioflt.format.luks2.layout import DATA_OFFSET
from ioflt.format.luks2.state import StateBlock
from ioflt.format.luks2.token import IofltToken
from ioflt.format.luks2.token import aad as token_aad
from ioflt.testing.local_keys import LocalKeys
from ioflt.types import SECTOR_SIZE, KeyRef
from tests.small_areas import small_areas
from tests.unit.datastore.deep.model import (
    CONTAINER,
    ERROR,
    KILL,
    POWER,
    SIDECAR,
    TAGS,
    Disk,
    ModelFile,
    ModelStorage,
    OpenFile,
    Process,
    Stopped,
)

CANARY = b"the canary sings"
FILE_ID = (1 << 62) + 77
MTIME = 1_600_000_000_987_654_321
#: Crash states in all, in how many parts, and how many of these `make test` has; what a mutant may survive.
STATES = 51_000
PARTS = 17
SOME = 5
HUNT = 20_000

Engine = type[Journal] | type[Replacement]


@dataclass
class Case:
    """A container with known contents."""

    keys: LocalKeys
    by: tuple[KeyRef, ...]
    disk: Disk
    uuid: str
    contents: bytes  # of the whole body
    length: int
    holes: frozenset[int]  # sectors
    thin: bool
    secrets: tuple[bytes, ...]
    tagged: bool  # afterwards; before too, if there are tags
    bad: frozenset[int]  # sectors that did not verify before


def make(keys: LocalKeys, choose: random.Random) -> Case:
    """A synced container: thin or thick, some sectors holes, a few segments."""
    key = keys.new_key(None)
    thin = choose.random() < 0.6
    sectors = choose.randrange(1, 9)
    mark = None if thin or choose.random() < 0.5 else choose.randrange(sectors + 1)
    open_from = 0 if thin else sectors if mark is None else mark
    holes = frozenset(n for n in range(open_from, sectors) if choose.random() < 0.4)
    uuid = new_uuid()
    was_tagged, tagged = choose.choice([(False, False), (False, True), (True, True), (True, True)])
    ((dek, blob),) = keys.generate(key, [token_aad(uuid, thin, key, tagged=was_tagged)])
    file = ModelFile(mtime=MTIME)
    opened = OpenFile(Process((), choose), file)
    body = bytearray()
    cipher = SectorCipher(dek)
    opened.resize(DATA_OFFSET + sectors * SECTOR_SIZE)
    for number in range(sectors):
        sector = bytearray(SECTOR_SIZE)
        if number not in holes:
            sector[:] = CANARY * 128 + choose.randbytes(SECTOR_SIZE // 2)
            body += sector
            cipher.encrypt(sector, number)
            opened.pwrite(sector, DATA_OFFSET + number * SECTOR_SIZE)
        else:
            body += sector
    length = choose.choice([None, len(body) - 1, len(body) - 4000])
    if was_tagged and length is None:
        length = len(body)
    for data, offset in rekey.header_copies(luks2.new(uuid, dek, IofltToken(key, thin, blob, was_tagged))):
        opened.pwrite(data, offset)
    first = choose.randrange(1, 9)
    for sequence in (first, first + 1):
        block = StateBlock(sequence, length, FILE_ID, None if mark is None else mark * SECTOR_SIZE)
        rekey.write_state(opened, block, dek, uuid)
    opened.fsync()
    disk, bad = Disk({CONTAINER: file, SIDECAR: None}), frozenset[int]()
    if was_tagged:
        bad = frozenset(n for n in range(sectors) if choose.random() < 0.15)
        disk.bind(TAGS + uuid, ModelFile())
        made = OpenFile(Process((), choose), disk.names[TAGS + uuid])
        before = NewTags(made, dek, uuid)
        before.begin(len(body))
        before.put(opened.pread(len(body), DATA_OFFSET), 0, bad)
        before.sync()
        disk.sync(TAGS + uuid)
    secrets = (CANARY, bytes(dek.view())[:32], bytes(dek.view())[32:])
    return Case(
        keys,
        choose.choice([(key,), (keys.new_key(None), key)]),
        disk,
        new_uuid(),
        bytes(body),
        len(body) if length is None else length,
        holes,
        thin,
        secrets,
        tagged,
        bad,
    )


def judge(case: Case, disk: Disk, *, must_be: str | None = None) -> str:
    """What an ordinary reader finds: "old" or "new", then with every byte right; or "under way"."""
    file = disk.names[CONTAINER]
    assert file is not None
    opened = OpenFile(Process((), random.Random(0)), file)
    header = rekey.read_header(opened)
    if recrypt.of(header) is not None:
        assert must_be in (None, "under way")
        return "under way"
    dek = unwrap(header, case.keys)
    block = rekey.read_state(opened, dek, header.uuid)
    length = rekey.body_size(opened) if block.length is None else block.length
    assert (length, block.file_id, rekey.body_size(opened)) == (case.length, FILE_ID, len(case.contents))
    ciphertext = opened.pread(len(case.contents), DATA_OFFSET)
    zero = bytes(SECTOR_SIZE)
    now = {
        number
        for number in range(len(ciphertext) // SECTOR_SIZE)
        if ciphertext[number * SECTOR_SIZE : (number + 1) * SECTOR_SIZE] == zero
    }
    if header.tagged:
        tagged = disk.names.get(TAGS + header.uuid)
        assert tagged is not None
        verified = OldTags(OpenFile(Process((), random.Random(0)), tagged), dek, header.uuid)
        assert verified.bad(ciphertext, 0) == case.bad
        data = set(range(len(ciphertext) // SECTOR_SIZE)) - now
        assert verified.bad(bytes(len(ciphertext)), 0) == data | case.bad, "data passes for a hole"
    else:
        assert header.uuid != case.uuid or not case.tagged
    mark = 0 if case.thin else len(ciphertext) if block.initialised is None else block.initialised
    cipher = SectorCipher(dek)
    cipher.decrypt(memoryview(ciphertext)[mark:], mark // SECTOR_SIZE, holes=True)
    cipher.decrypt(memoryview(ciphertext)[:mark], 0, holes=False)
    cipher.wipe()
    dek.wipe()
    if ciphertext != case.contents:  # an assert would take minutes to show how they differ
        raise AssertionError("bytes are lost")
    found = "new" if header.uuid == case.uuid else "old"
    if case.thin:
        assert now == case.holes, "a hole was filled"
    assert must_be in (None, found), found
    return found


class Explorer:
    """Crashes an engine over one case, and judges what comes of it."""

    def __init__(self, case: Case, engine: Engine, choose: random.Random) -> None:
        self.case = case
        self.engine = engine
        self.choose = choose
        self.states = 0

    def explore(self, outcomes: int = 5) -> None:
        """Every call of a first run, each way to stop there, each some times; then recoveries."""
        whole = self.case.disk.copy()
        calls = self.run(whole, None, POWER)
        self.finished(whole)
        for stop in range(calls):
            for kind in (POWER, KILL, ERROR):
                disk = self.case.disk.copy()
                self.run(disk, stop, kind)
                self.crashed(disk, kind, outcomes, depth=0)

    def run(self, disk: Disk, stop: int | None, kind: str) -> int:
        """The engine until its end or that call; how many there were."""
        process = Process(self.case.secrets, self.choose)
        process.stop_at, process.kind = stop, kind
        engine = self.made(disk, process)
        try:
            engine.run()
        except (Stopped, OSError):
            assert stop is not None
        else:
            assert stop is None or stop >= process.calls, "an error was swallowed"
        return process.calls

    def made(self, disk: Disk, process: Process) -> Journal | Replacement:
        case = self.case
        name = "segment" if issubclass(self.engine, Journal) else "chunk"
        size = 2 * SECTOR_SIZE if len(case.contents) > 4 * SECTOR_SIZE else SECTOR_SIZE
        storage = ModelStorage(disk, process)
        options = {name: size, "tagged": case.tagged}
        return self.engine(storage, case.keys, case.by, case.uuid, **options)

    def crashed(self, disk: Disk, kind: str, outcomes: int, depth: int) -> None:
        """The process has ended: what is found now, and what becomes of it."""
        for _ in range(outcomes if kind == POWER else 1):
            now = disk.cut(self.choose) if kind == POWER else disk.copy()
            self.states += 1
            judge(self.case, now)
            if depth < 3 and self.choose.random() < 0.6:  # once more, while it recovers
                stop, again = self.choose.randrange(40), self.choose.choice([POWER, KILL, ERROR])
                if self.run_until(now, stop, again):
                    self.crashed(now, again, 1, depth + 1)
                    continue
            else:
                self.run(now, None, POWER)
            self.finished(now)

    def run_until(self, disk: Disk, stop: int, kind: str) -> bool:
        """Whether it was stopped there before its end."""
        process = Process(self.case.secrets, self.choose)
        process.stop_at, process.kind = stop, kind
        engine = self.made(disk, process)
        try:
            engine.run()
        except (Stopped, OSError):
            return True
        return False

    def finished(self, disk: Disk) -> None:
        """It said that it is done: no power cut takes that back."""
        judge(self.case, disk, must_be="new")
        after = disk.cut(self.choose, "none")
        judge(self.case, after, must_be="new")
        assert after.names[SIDECAR] is None
        assert after.names[CONTAINER].mtime == MTIME
        self.states += 1


@pytest.fixture(autouse=True)
def _areas(monkeypatch: pytest.MonkeyPatch) -> None:
    small_areas(monkeypatch)


@pytest.fixture(autouse=True)
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is only computed from bytes is computed once: a third of the time."""
    for module, name in ((luks2, "parse"), (profile, "is_recrypting")):
        monkeypatch.setattr(module, name, memory(getattr(module, name)))


def memory(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`function`, its results kept by its argument: a header area, or the metadata that came of one."""
    known: dict[object, tuple[Any, Any]] = {}

    def call(argument: Any) -> Any:
        key = argument if isinstance(argument, bytes) else id(argument)
        if key not in known:
            known[key] = (function(argument), argument)
        return known[key][0]

    return call


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKeys]:
    with LocalKeys(tmp_path_factory.mktemp("keys")) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", [*range(SOME), *(pytest.param(part, marks=pytest.mark.long) for part in range(SOME, PARTS))]
)
def test_no_crash_loses_a_byte(part: int, keys: LocalKeys) -> None:
    states: dict[Engine, int] = {Journal: 0, Replacement: 0}
    seed = part
    while sum(states.values()) < STATES // PARTS:
        engine: Engine = Replacement if seed % 4 == 3 else Journal
        states[engine] += explored(keys, engine, seed)
        seed += PARTS
    assert min(states.values()) > 0


def explored(keys: LocalKeys, engine: Engine, seed: int) -> int:
    """The crash states of one case. Raises AssertionError for the first that is wrong."""
    choose = random.Random(seed)
    explorer = Explorer(make(keys, choose), engine, choose)
    try:
        explorer.explore()
    except (AssertionError, CorruptDataError) as error:
        raise AssertionError(f"seed {seed}, {engine.__name__}: {error!r}") from error
    return explorer.states


# Mutants: the engine with one mistake


class Unsynced:
    """A file whose fsync does nothing."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def fsync(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class JournalNotSynced(Journal):
    """The segment is written before the journal is durable."""

    def _protect(self, run: Any, slot: Any, journal: bytes) -> None:
        super()._protect(replace(run, beside=Unsynced(run.beside)), slot, journal)


class SegmentNotSynced(Journal):
    """The next journal begins before the segment is durable."""

    def _rewrite(self, position: int, block: bytes) -> None:
        file, self._file = self._file, Unsynced(self._file)
        super()._rewrite(position, block)
        self._file = file


class WatermarkBeforeData(Journal):
    """The slot counts the segment as done, which is not written yet."""

    def _protect(self, run: Any, slot: Any, journal: bytes) -> None:
        done = replace(slot, done=slot.done + slot.hot, hot=0, journal_hash=bytes(32))
        super()._protect(run, done, journal)


class NoRepair(Journal):
    """An interrupted segment is taken for written."""

    def _settle(self, run: Any, slot: Any) -> int:
        return slot.done + slot.hot


class RepairWithoutSync(Journal):
    """The repair relies on a slot and a journal that may be in memory only."""

    def _settle(self, run: Any, slot: Any) -> int:
        if slot.hot:
            self._rewrite(slot.done, self._journal(run.beside, slot))
        return slot.done + slot.hot


class RepairNotDurable(Journal):
    """The repaired segment is not durable when the next journal is written."""

    def _settle(self, run: Any, slot: Any) -> int:
        file, self._file = self._file, Unsynced(self._file)
        done = super()._settle(run, slot)
        self._file = file
        return done


class OneJournal(Journal):
    """Both slots share a journal."""

    def run(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sidecar, "journal_offset", lambda _sequence, _segment: sidecar.JOURNALS_OFFSET)
            super().run()


class NoHash(Journal):
    """A journal is believed without its hash."""

    def run(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sidecar, "has_journal", lambda _slot, _journal: True)
            super().run()


class SwitchTooEarly(Journal):
    """The header is switched before the state block under the new DEK is there."""

    def _store_state(self, run: Any) -> None:
        self._late = run

    def _switch(self, run: Any) -> luks2.Header:
        header = super()._switch(run)
        super()._store_state(self._late)
        return header


class SwitchBeforeData(Journal):
    """The header is switched before the last segment."""

    def _rewrite(self, position: int, block: bytes) -> None:
        if position + len(block) == self._end:
            self._last = (position, block)
        else:
            super()._rewrite(position, block)

    def _convert(self, run: Any, slot: Any, done: int) -> None:
        self._end, self._last = slot.body, None
        super()._convert(run, slot, done)

    def _settle(self, run: Any, slot: Any) -> int:
        self._end = None
        return super()._settle(run, slot)

    def _switch(self, run: Any) -> luks2.Header:
        header = super()._switch(run)
        if self._last is not None:
            super()._rewrite(*self._last)
        return header


class StateOverwritten(Journal):
    """The new state block takes the slot of the newest old one."""

    def _store_state(self, run: Any) -> None:
        super()._store_state(replace(run, state=replace(run.state, sequence=run.state.sequence + 1)))


class StateNotSynced(Journal):
    """The header is switched before the new state block is durable."""

    def _store_state(self, run: Any) -> None:
        file, self._file = self._file, Unsynced(self._file)
        super()._store_state(run)
        self._file = file


class CopiesAtOnce(Journal):
    """Both header copies are under way at the same time."""

    def _write_header(self, header: luks2.Header) -> None:
        for data, offset in rekey.header_copies(header):
            self._file.pwrite(data, offset)
        self._file.fsync()


class HeaderNotSynced(Journal):
    """The body is rewritten before the header says so durably."""

    def _write_header(self, header: luks2.Header) -> None:
        for data, offset in rekey.header_copies(header):
            self._file.pwrite(data, offset)


class ResumeBelievesMemory(Journal):
    """What a resumed recrypt finds of the header is not written again."""

    def run(self) -> None:
        self._resumed = recrypt.of(rekey.read_header(self._file)) is not None
        super().run()

    def _write_header(self, header: luks2.Header) -> None:
        if not self._resumed:
            super()._write_header(header)
        self._resumed = False


class ConcludesFromMemory(Journal):
    """The sidecar goes although the switched header may be in memory only."""

    def _conclude(self, header: luks2.Header) -> None:
        file, self._file = self._file, Unsynced(self._file)
        self._clean_up(header)
        self._file = file


class SidecarWithoutName(Journal):
    """The header speaks of a sidecar whose name is not durable."""

    def _make_sidecar(self, *arguments: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self._storage, "sync_sidecars", lambda: None)
            super()._make_sidecar(*arguments)


class SidecarNotSynced(Journal):
    """The header speaks of a sidecar whose first slot is not durable."""

    def _make_sidecar(self, *arguments: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            make = self._storage.make_sidecar
            patch.setattr(self._storage, "make_sidecar", lambda size: Unsynced(make(size)))
            super()._make_sidecar(*arguments)


class SidecarGoesFirst(Journal):
    """The sidecar is removed before the switch."""

    def _switch(self, run: Any) -> luks2.Header:
        self._storage.remove_sidecar()
        self._storage.sync_sidecars()
        return super()._switch(run)


class RemovalNotSynced(Journal):
    """It says that it is done while the sidecar may come back."""

    def _clean_up(self, header: luks2.Header) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self._storage, "sync_sidecars", lambda: None)
            super()._clean_up(header)


class HolesWritten(Journal):
    """A hole is taken for data."""

    def _convert(self, run: Any, slot: Any, done: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rekey, "holes_from", lambda _header, _state: None)
            super()._convert(run, slot, done)


class ClearJournal(Journal):
    """The journal holds plaintext."""

    def _convert(self, run: Any, slot: Any, done: int) -> None:
        def decrypt(self: Any, block: bytearray, position: int) -> None:
            self._old.decrypt(block, position // SECTOR_SIZE, holes=False)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rekey.Translation, "translate", decrypt)
            super()._convert(run, slot, done)


class TagsNotSynced(Journal):
    """A segment is rewritten before its tags are durable."""

    def _convert(self, run: Any, slot: Any, done: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(NewTags, "sync", lambda _self: None)
            super()._convert(run, slot, done)


class TagsBelieved(Journal):
    """What a resumed recrypt finds of the tags is not written again."""

    def run(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(NewTags, "renew", lambda _self: None)
            super().run()


class BadBlessed(Journal):
    """What did not verify gets a tag."""

    def _convert(self, run: Any, slot: Any, done: int) -> None:
        super()._convert(replace(run, before=None), slot, done)


class DraftTagsNotSynced(Replacement):
    """The new container gets the name before its tags are durable."""

    def run(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(NewTags, "sync", lambda _self: None)
            super().run()


class DraftNotSynced(Replacement):
    """The new container gets the name before it is durable."""

    def run(self) -> None:
        make = self._storage.make_draft
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self._storage, "make_draft", lambda: Unsynced(make()))
            super().run()


class NameNotSynced(Replacement):
    """It says that it is done while the old container may come back."""

    def run(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self._storage, "sync_names", lambda: None)
            super().run()


class PublishedEmpty(Replacement):
    """The new container gets the name before its body."""

    def _write_body(self, draft: Any, *arguments: Any) -> None:
        super()._write_body(draft, *arguments)
        self._storage.publish(draft)


MUTANTS = [mutant for engine in (Journal, Replacement) for mutant in engine.__subclasses__()]


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_each_mistake_is_caught(mutant: Engine, keys: LocalKeys) -> None:
    states = 0
    for seed in range(1000):
        try:
            states += explored(keys, mutant, seed)
        except AssertionError:
            return
        assert states < HUNT, f"{mutant.__doc__} Nothing is wrong with {states} states"


def test_there_are_more_than_ten_mistakes() -> None:
    assert len(MUTANTS) > 10
