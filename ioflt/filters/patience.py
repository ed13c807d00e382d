"""Sectors that do not verify while another process writes the file: half written, or changed?

Data and tag of a sector are two writes, and whoever makes them may be stopped in between, for as long as the
machine has something better to do. He shows by going on: the data or the tag change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

#: Seconds for which a sector has to stand still until it is believed to be changed, where the journal names
#: its area: who writes it may be stopped. Elsewhere a moment: nobody writes there, but may cut the file.
PATIENCE_S = 10.0
QUIET_S = 0.1
#: Seconds for all looks at what goes on changing, and never verifies.
LOOKS_S = 60.0
#: Seconds between two looks: at first, and at most; each time twice as many.
_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Sight:
    """A sector at one look. `data`: its bytes, fewer than there should be where the file ends. `tags`: the
    one that it should have, and the stored one. `named`: the journal has its area."""

    data: bytearray | memoryview
    tags: bytes
    sound: bool
    named: bool


class Patience:
    """That of one open file. Threads may share it.

    One who was waited for in vain is not waited for again until something went on: a file that is changed
    all over costs that time once.
    """

    def __init__(self) -> None:
        self._left_s = PATIENCE_S

    def settle(
        self, numbers: Iterable[int], is_written: Callable[[], bool], look: Callable[[list[int]], list[Sight]]
    ) -> dict[int, Sight]:
        """What each of these sectors is once nobody is half through with it: `sound`, or not.

        `is_written`: whether another process has the writer's lock. Without one, what the journal names was
        interrupted: it is as it is, until somebody writes again.
        """
        settled: dict[int, Sight] = {}
        since: dict[int, tuple[bytes, float]] = {}  # its tags, and since when it has them
        left, alone, pause = list(numbers), False, _PAUSE_S
        end = time.monotonic() + LOOKS_S
        while True:
            writes = is_written()
            for number, sight in zip(left, look(left), strict=True):
                now = time.monotonic()
                before, begin = since.get(number, (b"", now))
                if before != sight.tags:
                    since[number] = sight.tags, now
                if sight.sound or (before and before != sight.tags):
                    self._left_s = PATIENCE_S
                if sight.sound:
                    settled[number] = sight
                elif not writes:
                    if sight.named or alone:
                        settled[number] = replace(sight, sound=sight.named)
                elif now >= end or (before == sight.tags and now - begin >= self._limit_s(sight)):
                    settled[number] = sight
            left = [number for number in left if number not in settled]
            if not left:
                break
            alone = not writes
            if writes:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
        if any(sight.named and not sight.sound for sight in settled.values()):
            self._left_s = QUIET_S
        return settled

    def _limit_s(self, sight: Sight) -> float:
        return self._left_s if sight.named else QUIET_S
