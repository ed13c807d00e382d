"""Areas of a disk in whole units."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ioflt.backup.disk import aligned
from ioflt.types import Area

CAPACITY = 1000


@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90))), st.integers(1, 64))
def test_aligned_areas_cover_theirs_and_no_unit_more(steps: list[tuple[int, int]], unit: int) -> None:
    areas, at = [], 0
    for gap, length in steps:
        if at + gap + length <= CAPACITY:
            areas.append(Area(at + gap, length))
            at += gap + length
    found = list(aligned(areas, unit, CAPACITY))
    wanted = {byte // unit for area in areas for byte in range(area.start, area.end)}
    assert {byte // unit for area in found for byte in range(area.start, area.end)} == wanted
    assert all(area.length > 0 and area.start % unit == 0 for area in found)
    assert all(area.end % unit == 0 or area.end == CAPACITY for area in found)
    assert all(one.end < other.start for one, other in itertools.pairwise(found))
