"""A B C A B C …: all places once, then again: what disturbs the machine for a while disturbs all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .places import Places
from .results import Figures
from .work import Extent, Work


@dataclass(frozen=True)
class Plan:
    """Rows and places by name; a row has its own of them."""

    rows: Sequence[str]
    places: Sequence[str]
    extent: Extent
    rounds: int


def measure(
    works: Sequence[Work], plan: Plan, places: Places, tell: Callable[[str], None]
) -> Iterator[list[Figures]]:
    """The wanted rows of each work that has one. `tell` hears what is measured now. Raises BenchError."""
    for work in works:
        figures = {row.name: Figures(row) for row in work.rows if row.name in plan.rows}
        if not figures:
            continue
        for number in range(1, plan.rounds + 1):
            for place in work.places:
                if place not in plan.places:
                    continue
                tell(f"{', '.join(figures)}: {place}, round {number} of {plan.rounds}")
                for name, sample in work.measure(places, place, plan.extent).items():
                    if name in figures:
                        figures[name].add(place, sample)
        yield list(figures.values())
