"""Which points are kept: a decision about names alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ioflt.backup.shelf import TIME


@dataclass(frozen=True, slots=True)
class Keep:
    """How many of the newest; and of how many days, weeks (of ISO 8601) and months the last one of each, the
    newest of them first. Times are UTC. What one rule keeps no other one drops.
    """

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0


def kept(points: Sequence[str], keep: Keep) -> list[str]:
    """Those that stay, the oldest first."""
    newest = sorted(points, reverse=True)
    stay = set(newest[: keep.last])
    for count, period in ((keep.daily, _day), (keep.weekly, _week), (keep.monthly, _month)):
        stay |= set(_last_of(newest, period)[:count])
    return sorted(stay)


def _last_of(newest: Sequence[str], period: Callable[[datetime], object]) -> list[str]:
    """The newest point of each period that has one."""
    found: dict[object, str] = {}
    for point in newest:
        found.setdefault(period(datetime.strptime(point, TIME).replace(tzinfo=UTC)), point)
    return list(found.values())


def _day(moment: datetime) -> object:
    return moment.date()


def _week(moment: datetime) -> object:
    return moment.isocalendar()[:2]


def _month(moment: datetime) -> object:
    return moment.year, moment.month
