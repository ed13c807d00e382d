"""Which points stay: by number, day, week and month."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from ioflt.backup.retention import Keep, kept
from ioflt.backup.shelf import TIME


def point(*when: int) -> str:
    return datetime(*when, tzinfo=UTC).strftime(TIME)  # type: ignore[misc,arg-type]  # year to second


MONDAY = point(2026, 11, 23, 1)
SUNDAY = point(2026, 11, 22, 23)
POINTS = [
    point(2025, 12, 31, 23),  # of the first week of 2026, by ISO 8601
    point(2026, 1, 1, 1),
    point(2026, 10, 31, 12),
    point(2026, 11, 1, 12),
    SUNDAY,
    MONDAY,
    point(2026, 11, 23, 2),
]


@pytest.mark.parametrize(
    ("keep", "stay"),
    [
        (Keep(last=2), [5, 6]),
        (Keep(last=100), list(range(7))),
        (Keep(daily=1), [6]),
        (Keep(daily=3), [3, 4, 6]),
        (Keep(weekly=2), [4, 6]),
        (Keep(weekly=100), [1, 3, 4, 6]),
        (Keep(monthly=2), [2, 6]),
        (Keep(monthly=100), [0, 1, 2, 6]),
        (Keep(last=2, monthly=3), [1, 2, 5, 6]),
        (Keep(), []),
    ],
)
def test_what_stays(keep: Keep, stay: list[int]) -> None:
    shuffled = random.Random(1).sample(POINTS, len(POINTS))
    assert kept(shuffled, keep) == [POINTS[index] for index in stay]


def test_a_point_a_day_for_two_years() -> None:
    first = datetime(2025, 1, 1, 3, tzinfo=UTC)
    points = [(first + timedelta(days=day)).strftime(TIME) for day in range(730)]
    stay = kept(points, Keep(daily=7, weekly=4, monthly=12))
    assert stay[-7:] == points[-7:]
    assert 7 + 3 + 11 - 2 <= len(stay) <= 7 + 4 + 12
    assert kept(stay, Keep(daily=7, weekly=4, monthly=12)) == stay
