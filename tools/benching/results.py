"""Figures of rows, their medians and ratios, and the JSON of a run."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

#: The places that each row of the JSON names, and no others; None where one was not measured.
PLACES = ("ioflt", "clear", "bare", "gocryptfs")


class Sample(NamedTuple):
    """One figure in the row's unit; and what moving the data cost, in seconds of processor time a GiB."""

    value: float
    cpu: float | None = None


@dataclass(frozen=True)
class Row:
    """`name` as on the command line and in JSON; `title` as in the table."""

    name: str
    title: str
    unit: str


@dataclass
class Figures:
    """All samples of a row, by place, in the order of the rounds."""

    row: Row
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def add(self, place: str, sample: Sample) -> None:
        self.samples.setdefault(place, []).append(sample)

    def median(self, place: str) -> float | None:
        found = [sample.value for sample in self.samples.get(place, ())]
        return statistics.median(found) if found else None

    def medians(self) -> dict[str, float | None]:
        """Of all places that were measured."""
        return {place: self.median(place) for place in self.samples}

    def cpu(self, place: str) -> float | None:
        """The median of what a GiB costs."""
        found = [sample.cpu for sample in self.samples.get(place, ()) if sample.cpu is not None]
        return statistics.median(found) if found else None

    def cpus(self) -> dict[str, float]:
        """Of all places where it is known."""
        return {place: cost for place in self.samples if (cost := self.cpu(place)) is not None}

    @property
    def rounds(self) -> int:
        return max((len(samples) for samples in self.samples.values()), default=0)

    def spread(self, place: str) -> tuple[float, float]:
        """The lowest and the highest figure."""
        found = [sample.value for sample in self.samples[place]]
        return min(found), max(found)


@dataclass(frozen=True)
class Target:
    """What a row's figure of ioflt should be: as a share of another place's, or by itself."""

    row: str
    bound: float
    than: str | None = None
    #: Else at least.
    at_most: bool = False
    #: It is about the processor time a GiB.
    of_cpu: bool = False


@dataclass(frozen=True)
class Verdict:
    """`reached` is the ratio, or the figure where the target is one; None: nothing to compare with."""

    target: Target
    reached: float | None

    @property
    def met(self) -> bool | None:
        if self.reached is None:
            return None
        if self.target.at_most:
            return self.reached <= self.target.bound
        return self.reached >= self.target.bound


def ratio(figures: Figures, than: str, *, of_cpu: bool = False) -> float | None:
    """ioflt's median ÷ the other place's."""
    of = figures.cpu if of_cpu else figures.median
    ours, theirs = of("ioflt"), of(than)
    return ours / theirs if ours is not None and theirs else None


def judged(figures: Figures, targets: Sequence[Target]) -> list[Verdict]:
    """Those targets that are about this row."""
    verdicts = []
    for target in targets:
        if target.row == figures.row.name:
            if target.than is not None:
                reached = ratio(figures, target.than, of_cpu=target.of_cpu)
            else:
                reached = figures.cpu("ioflt") if target.of_cpu else figures.median("ioflt")
            verdicts.append(Verdict(target, reached))
    return verdicts


def to_json(run: Sequence[Figures], targets: Sequence[Target]) -> dict[str, object]:
    """`rows`: `{"row", "unit", "ioflt", "clear", "bare", "gocryptfs"}`, medians; one more for each that has
    processor time. `details` has what else is known of each row that was measured.
    """
    return {
        "rows": [row for figures in run for row in _rows(figures)],
        "details": [_details(figures, targets) for figures in run],
    }


def _rows(figures: Figures) -> Iterator[Mapping[str, object]]:
    name, unit = figures.row.name, figures.row.unit
    yield {"row": name, "unit": unit, **{place: figures.median(place) for place in PLACES}}
    costs = {place: figures.cpu(place) for place in PLACES}
    if any(cost is not None for cost in costs.values()):
        yield {"row": f"{name}-cpu", "unit": "s/GiB", **costs}


def _details(figures: Figures, targets: Sequence[Target]) -> Mapping[str, object]:
    return {
        "row": figures.row.name,
        "rounds": figures.rounds,
        "medians": figures.medians(),
        "spread": {place: figures.spread(place) for place in figures.samples},
        "cpu_s_per_gib": figures.cpus(),
        "targets": [_verdict(verdict) for verdict in judged(figures, targets)],
    }


def _verdict(verdict: Verdict) -> Mapping[str, object]:
    target = verdict.target
    return {
        "of": "cpu_s_per_gib" if target.of_cpu else "row",
        "than": target.than,
        "at_most" if target.at_most else "at_least": target.bound,
        "reached": verdict.reached,
        "met": verdict.met,
    }
