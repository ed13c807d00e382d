"""Of what is denied not more is written than a disk can take, and what is not written is counted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ioflt import paths
from ioflt.audit import reader
from ioflt.audit.chain import Line
from ioflt.audit.event import Event, from_json
from ioflt.keyd.denials import BURST, Denials
from ioflt.keyd.recorder import Recorder, event


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def recorder(ioflt_home) -> Iterator[Recorder]:
    made = Recorder(paths.find().ensure())
    yield made
    made.close()


def logged() -> list[Event]:
    lines = b"".join(file.data for file in reader.on_disk(paths.find().events)).splitlines()
    return [from_json(Line.from_bytes(line).event) for line in lines]


def test_a_user_has_so_many_written_and_the_rest_counted(recorder: Recorder) -> None:
    time = Time()
    denials = Denials(recorder, time)
    for _ in range(BURST + 10):
        denials.tell(event("mount", outcome="denied"))
    assert len(logged()) == BURST
    for _ in range(2):
        denials.tell_rest()
    *_, last = logged()
    assert len(logged()) == BURST + 1
    assert (last.operation, last.outcome, last.changes[0].after) == ("denials", "denied", 10)
    assert last.by.uid == logged()[0].by.uid
    time.now += 60.5
    for _ in range(2):
        denials.tell(event("mount", outcome="denied"))
    assert len(logged()) == BURST + 2


def test_of_those_that_are_alike_the_first_is_written(recorder: Recorder) -> None:
    time = Time()
    denials = Denials(recorder, time)
    for _ in range(3):
        denials.tell(event("mount", outcome="denied"), "alike")
        denials.tell(event("mount", outcome="denied"), "other")
    assert len(logged()) == 2
    time.now += 61
    denials.tell(event("mount", outcome="denied"), "alike")
    assert len(logged()) == 3
