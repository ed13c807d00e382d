"""What is noted of writes: nothing is missed, and no more than regions of what was written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.backup import increments
from ioflt.filters import written
from ioflt.filters.written import END, REGION, Area, Written
from ioflt.types import Area as Part

HOME = object()
KEY = (1, 2)
PLACES = st.tuples(st.integers(0, 300 * REGION), st.integers(1, 80 * REGION)).map(lambda at: (at[0], sum(at)))


def numbers(areas: list[Area]) -> set[int]:
    """Of the regions that they touch."""
    return covering([(start, start + length) for *_, start, length in areas])


def covering(writes: list[tuple[int, int]]) -> set[int]:
    return {number for start, end in writes for number in range(start // REGION, -(-end // REGION))}


@given(st.lists(st.lists(PLACES, max_size=20), max_size=5))
def test_each_watch_is_told_of_all_since_it_was_told_last(rounds: list[list[tuple[int, int]]]) -> None:
    notes = Written()
    always, once, other = notes.watch(HOME), notes.watch(HOME), notes.watch(object())
    for writes in rounds:
        for start, end in writes:
            notes.note(HOME, KEY, start, end)
        told = always.take()
        assert {tuple(each[:2]) for each in told} == ({KEY} if writes else set())
        assert numbers(told) == covering(writes)
    notes.end(always)
    notes.note(HOME, KEY, 0, 1)
    assert always.take() == other.take() == []
    assert numbers(once.take()) == covering([*(each for writes in rounds for each in writes), (0, 1)])


def test_more_than_are_kept_become_larger_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "MOST", 4)
    notes = Written()
    watch = notes.watch(HOME)
    for number in range(0, 1000, 10):
        notes.note(HOME, KEY, number * REGION, number * REGION + 1)
    notes.note(HOME, KEY, 5000 * REGION, END)
    areas = watch.take()
    assert len(areas) <= 6
    for number in range(0, 1000, 10):
        assert any(start <= number * REGION < start + length for *_, start, length in areas)
    assert max(start + length for *_, start, length in areas) == END


@given(st.lists(PLACES, max_size=8), st.lists(PLACES, max_size=8))
def test_without_leaves_what_is_not_known(some: list[tuple[int, int]], known: list[tuple[int, int]]) -> None:
    some, known = ([(start // REGION, -(-end // REGION)) for start, end in each] for each in (some, known))
    parts, rest = (
        list(increments.merged(Part(start, end - start) for start, end in each)) for each in (some, known)
    )
    found = list(increments.without(parts, rest))
    places = [place for each in found for place in range(each.start, each.end)]
    everything, hidden = ({n for start, end in each for n in range(start, end)} for each in (some, known))
    assert places == sorted(everything - hidden)
    assert all(each.length > 0 for each in found)
