"""Power cuts: whatever part of the unsynced writes reached the medium, nothing synced is lost.

A recorder beneath the container keeps an image of the file after each system call that changes it. The medium
after a power cut is made of these: each 4 KiB page (or, torn, each 512 bytes) is as in any image since the
last sync, and so is the size. Every such medium is opened again and judged. A container with tags has two
files, and what one of them keeps says nothing of the other: all of it must verify, but for what an attacker
changes outside the areas that the journal names.
"""

import os
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ioflt import syscalls
from ioflt.crypto.secret import Secret
from ioflt.datastore import datakeys, newcontainer, openfile, tagfiles
from ioflt.datastore.container import Container
from ioflt.datastore.header import read_header
from ioflt.errors import IntegrityError
from ioflt.format.luks2 import tags
from ioflt.format.luks2.layout import DATA_OFFSET, STATE_OFFSET, STATE_SLOT_OFFSETS
from ioflt.sectors import round_up
from ioflt.testing.local_keys import LocalKeys
from tests.small_areas import small_areas

PAGE = 4096
TORN = 512
LIMIT = 6 * PAGE
#: Sessions of each kind of container; each gives some hundred power cuts.
SESSIONS = 30
STEPS = 14


@dataclass
class Version:
    """The file at one moment: both state slots, the body."""

    slots: tuple[bytes, bytes]
    body: bytes


@dataclass
class Recorder:
    """Remembers the file after each change since the last sync, whoever made it."""

    fd: int
    versions: list = field(default_factory=list)
    at_sync: list = field(default_factory=list)

    def snap(self):
        size = os.fstat(self.fd).st_size
        slots = tuple(os.pread(self.fd, PAGE, offset) for offset in STATE_SLOT_OFFSETS)
        self.versions.append(Version(slots, os.pread(self.fd, max(0, size - DATA_OFFSET), DATA_OFFSET)))

    def synced(self):
        del self.versions[:-1]


def install(recorders, patch):
    """Have them see all that changes their files."""
    by_fd = {recorder.fd: recorder for recorder in recorders}

    def changing(original):
        def call(fd, *arguments, **named):
            result = original(fd, *arguments, **named)
            if fd in by_fd:
                by_fd[fd].snap()
            return result

        return call

    def syncing(fd):  # the disk is in the recorder: no need to wait for a real one
        if fd in by_fd:
            recorder = by_fd[fd]
            for hook in recorder.at_sync:
                hook()
            recorder.synced()
            for hook in recorder.at_sync:
                hook()

    patch.setattr(os, "pwrite", changing(os.pwrite))
    patch.setattr(os, "ftruncate", changing(os.ftruncate))
    patch.setattr(syscalls, "fallocate", changing(syscalls.fallocate))
    patch.setattr(os, "fsync", syncing)
    patch.setattr(os, "fdatasync", syncing)


class TagRecorder(Recorder):
    """The same of the file of tags: of what such a short container uses of it."""

    PARTS = (
        *((offset, tags.SLOT_SIZE) for offset in tags.SLOT_OFFSETS),
        (tags.GROUPS_OFFSET, PAGE),
        (tags.GROUPS_OFFSET + PAGE, PAGE),
    )

    def snap(self):
        self.versions.append(
            [os.pread(self.fd, size, offset).ljust(size, b"\0") for offset, size in self.PARTS]
        )


class Cuts:
    """Makes the media that a power cut may leave, and judges how they open."""

    def __init__(self, directory, keys, thin, seed, *, tagged=False):
        self.random = random.Random(seed)
        self.thin = thin
        self.top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY) if tagged else None
        fd = os.open(directory / "disk", os.O_RDWR | os.O_CREAT)
        newcontainer.create(fd, keys, [keys.new_key(None)], thin=thin, tags_in=self.top)
        os.fsync(fd)
        self.header = read_header(fd)
        self.scratch = os.open(directory / "after", os.O_RDWR | os.O_CREAT)
        os.pwrite(self.scratch, os.pread(fd, DATA_OFFSET, 0), 0)
        self.dek = datakeys.unwrap(self.header, keys)
        self.file = Container(fd, self.header, Secret(self.dek.view()), writable=True, tags_in=self.top)
        self.recorder = Recorder(fd)
        self.recorders = [self.recorder]
        if tagged:
            self.tag_recorder = TagRecorder(self.file._tags_fd)
            self.recorders.append(self.tag_recorder)
            self.after_top = directory / "top"
            self.after_top.mkdir()
            self.after_top = os.open(self.after_top, os.O_RDONLY | os.O_DIRECTORY)
            self.scratch_tags = tagfiles.create(self.after_top, self.dek, self.header.uuid)
        for recorder in self.recorders:
            recorder.snap()
            recorder.at_sync.append(self.cut_some)
        self.attacks = 0
        self.now = bytearray()  # contents in memory
        self.safe = bytearray()  # contents at the last sync that the user asked for
        self.lengths = {0}  # legal lengths after a power cut now
        self.touched = set()  # bytes written since then
        self.media = 0

    # What the user does

    def step(self):
        choose = self.random
        offset = choose.choice([choose.randrange(LIMIT), choose.randrange(0, LIMIT, PAGE), len(self.now)])
        length = choose.choice([choose.randrange(1, 2 * PAGE), PAGE, 2 * PAGE])
        actions = [self.write] * 4 + [self.truncate] * 2 + [self.extend] * 2 + [self.punch] + [self.sync] * 3
        if not self.thin:
            actions += [self.fill] * 3 + [self.mark]
        if self.top is not None:
            actions += [self.close]
        action = choose.choice(actions)
        action(offset, length)

    def grow(self, length):
        self.lengths.add(length)
        self.now.extend(bytes(max(0, length - len(self.now))))

    def write(self, offset, length):
        data = self.random.randbytes(length)
        old = len(self.now)
        if offset + length > old:
            self.may_become(max(old, offset + length))
        self.touch(min(offset, old), offset + length)
        self.file.write(offset, data)
        self.grow(offset + length)
        self.now[offset : offset + length] = data

    def truncate(self, length, _):
        self.may_become(length)
        self.touch(min(length, len(self.now)), LIMIT * 3)
        self.file.truncate(length)
        del self.now[length:]
        self.grow(length)

    def extend(self, offset, length):
        length = self.random.choice([length, -offset % PAGE])
        self.truncate(max(len(self.now), offset + length), 0)

    def punch(self, offset, length):
        end = min(offset + length, len(self.now))
        if offset < end:
            self.touch(offset, end)
            self.file.allocate(openfile.PUNCH_HOLE, offset, length)
            self.now[offset:end] = bytes(end - offset)

    def fill(self, _offset, length):
        step = self.file.fill_step()
        if step is not None:
            self.file.fill((step[0], min(step[1], self.random.choice([PAGE, 3 * PAGE, LIMIT * 3]))))

    def mark(self, _offset, _length):
        self.file.save_fill_mark()

    def sync(self, _offset=0, _length=0):
        self.file.sync(data_only=self.random.random() < 0.5)
        self.safe = bytearray(self.now)
        self.lengths = {len(self.now)}
        self.touched = set()
        self.cut_some()

    def close(self, _offset, _length):
        self.file.flush()
        if self.random.random() < 0.5:
            self.file.leave()

    def may_become(self, length):
        self.lengths |= {len(self.now), length}
        if not self.aligned_between(length):
            return
        # state "none": the length is the body's, which grows by whole sectors
        low, high = sorted((len(self.now), length))
        self.lengths |= set(range(round_up(low), high + 1, PAGE))

    @staticmethod
    def aligned_between(length):
        return length % PAGE == 0

    def touch(self, start, end):
        self.touched |= set(range(start // TORN, -(-end // TORN)))

    # What a power cut leaves

    def cut_some(self, count=3):
        for _ in range(count):
            self.cut()

    def cut(self):
        versions = self.recorder.versions
        unit = self.random.choice([PAGE, TORN])
        mode = self.random.choice(["oldest", "newest", "any", "any", "any"])
        pick = {
            "oldest": lambda: versions[0],
            "newest": lambda: versions[-1],
            "any": lambda: self.random.choice(versions),
        }[mode]
        size = len(pick().body)
        body = b""
        for start in range(0, size, PAGE):
            # A page that the user wrote nothing of is written whole: the filler relies on that.
            torn = unit == TORN and any(start // TORN + i in self.touched for i in range(PAGE // TORN))
            for position in range(start, start + PAGE, TORN if torn else PAGE):
                end = position + (TORN if torn else PAGE)
                body += pick().body[position:end].ljust(end - position, b"\0")
        slots = [b"".join(pick().slots[n][i : i + TORN] for i in range(0, PAGE, TORN)) for n in (0, 1)]
        if self.top is not None:
            pieces = self.tag_recorder.versions
            for index, (offset, length) in enumerate(TagRecorder.PARTS):
                for start in range(0, length, TORN):
                    piece = self.pick_tags(mode, pieces)[index][start : start + TORN]
                    os.pwrite(self.scratch_tags, piece, offset + start)
        self.judge(slots, body[:size])

    def pick_tags(self, mode, versions):
        return {"oldest": versions[0], "newest": versions[-1]}.get(mode) or self.random.choice(versions)

    def judge(self, slots, body):
        self.media += 1
        os.ftruncate(self.scratch, STATE_OFFSET)
        for data, offset in zip(slots, STATE_SLOT_OFFSETS, strict=True):
            os.pwrite(self.scratch, data, offset)
        os.ftruncate(self.scratch, DATA_OFFSET)
        os.pwrite(self.scratch, body, DATA_OFFSET)
        os.ftruncate(self.scratch, DATA_OFFSET + len(body))
        after = self.open_after()
        try:
            if self.top is not None and self.random.random() < 0.3:
                after.close()
                self.attack()
                after = self.open_after()
            assert after.length in self.lengths, (after.length, sorted(self.lengths))
            self.compare(after.read(0, LIMIT * 4), body)
            if self.random.random() < 0.2:
                self.go_on(after)
        finally:
            after.close()

    def open_after(self):
        top = None if self.top is None else self.after_top
        dek = Secret(self.dek.view())
        return Container(os.dup(self.scratch), self.header, dek, writable=True, tags_in=top)

    def attack(self):
        """Whatever is changed where the journal names nothing is found, also once somebody has written."""
        file = self.open_after()
        try:
            journaled = file._tagged._file.load_journal().areas
            sectors = [
                n for n in range(round_up(file.length) // PAGE) if n // tags.AREA_SECTORS not in journaled
            ]
            if not sectors:
                return
            sector = self.random.choice(sectors)
            offset = DATA_OFFSET + sector * PAGE
            before = os.pread(self.scratch, PAGE, offset)
            changed = bytearray(before.ljust(PAGE, b"\0"))
            if any(changed) and self.random.random() < 0.3:
                changed[:] = bytes(PAGE)
            else:
                changed[self.random.randrange(PAGE)] ^= 1 << self.random.randrange(8)
            os.pwrite(self.scratch, changed, offset)
            for _ in range(2):
                with pytest.raises(IntegrityError):
                    file.read(sector * PAGE, 1)
                file._tagged._begin()
            assert [run for run in file.scrub(lambda _: None)] == [(sector, 1)]
            os.pwrite(self.scratch, before, offset)
            self.attacks += 1
        finally:
            file.close()

    def compare(self, found, body):
        """Bytes that were synced and not written since are there, but for torn first writes into holes."""
        for unit in range(0, -(-min(len(found), len(self.safe)) // TORN)):
            if unit in self.touched:
                continue
            start = unit * TORN
            end = min(start + TORN, len(self.safe), len(found))
            if bytes(found[start:end]) != self.safe[start:end]:
                assert self.was_hole(start // PAGE), f"lost bytes {start} to {end}"

    def was_hole(self, sector):
        """Whether the user wrote part of that sector while there was a hole."""
        part = slice(sector * PAGE, sector * PAGE + PAGE)
        dirty = any(sector * (PAGE // TORN) + i in self.touched for i in range(PAGE // TORN))
        return dirty and any(not any(version.body[part]) for version in self.recorder.versions)

    def go_on(self, after):
        """What was read stays, whatever comes next; an extension reads as zeros."""
        before = bytes(after.read(0, LIMIT * 4))
        after.truncate(len(before) + self.random.choice([1, PAGE - 1, PAGE, 2 * PAGE + 1]))
        longer = bytes(after.read(0, LIMIT * 8))
        assert longer[: len(before)] == before
        assert not any(longer[len(before) :])
        while (step := after.fill_step()) is not None:
            after.fill(step)
        after.sync(data_only=True)
        after.refresh()
        assert bytes(after.read(0, LIMIT * 8)) == longer

    def end(self):
        self.file.close()
        os.close(self.scratch)
        if self.top is not None:
            for fd in (self.top, self.after_top, self.scratch_tags):
                os.close(fd)


@pytest.mark.slow
@pytest.mark.allow_log("not verify")
@pytest.mark.parametrize("kind", ["thin tagged", "thick tagged"])
def test_power_cuts_with_tags(kind, tmp_path, monkeypatch):
    media = attacks = 0
    small_areas(monkeypatch)
    with LocalKeys(tmp_path) as keys:
        for seed in range(SESSIONS):
            directory = Path(tempfile.mkdtemp(dir=tmp_path))
            with monkeypatch.context() as patch:
                cuts = Cuts(directory, keys, kind == "thin tagged", seed, tagged=True)
                install(cuts.recorders, patch)
                for _ in range(STEPS):
                    cuts.step()
                    cuts.cut_some(3)
                media += cuts.media
                attacks += cuts.attacks
                cuts.end()
    assert media >= 2000
    assert attacks >= 100


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["thin", "thick"])
def test_power_cuts(kind, tmp_path, monkeypatch):
    media = 0
    with LocalKeys(tmp_path) as keys:
        for seed in range(SESSIONS):
            directory = Path(tempfile.mkdtemp(dir=tmp_path))
            with monkeypatch.context() as patch:
                cuts = Cuts(directory, keys, kind == "thin", seed)
                install(cuts.recorders, patch)
                for _ in range(STEPS):
                    cuts.step()
                    cuts.cut_some(3)
                media += cuts.media
                cuts.end()
    assert media >= 2000
