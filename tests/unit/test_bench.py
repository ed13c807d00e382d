"""What the bench makes of its samples: medians, ratios, whether targets are met."""

from __future__ import annotations

import pytest

from tools.benching.results import Figures, Row, Sample, Target, judged, ratio, to_json
from tools.benching.targets import TARGETS

ROW = Row("read", "a read", "MiB/s")


def figures(**samples: list[Sample]) -> Figures:
    found = Figures(ROW)
    for place, each in samples.items():
        for sample in each:
            found.add(place, sample)
    return found


def of(**medians: float) -> Figures:
    return figures(**{place: [Sample(median)] for place, median in medians.items()})


def test_a_figure_is_the_median_of_its_rounds() -> None:
    found = figures(ioflt=[Sample(900, 0.7), Sample(1, 0.1), Sample(1000, 0.5)])
    assert (found.median("ioflt"), found.spread("ioflt"), found.cpu("ioflt")) == (900, (1, 1000), 0.5)
    assert (found.median("bare"), found.cpu("bare")) == (None, None)


def test_a_ratio_is_ours_by_theirs() -> None:
    found = figures(ioflt=[Sample(900, 0.4)], gocryptfs=[Sample(500, 0.5)], bare=[Sample(1000)])
    assert ratio(found, "gocryptfs") == 1.8
    assert ratio(found, "gocryptfs", of_cpu=True) == 0.8
    assert ratio(found, "bare") == 0.9
    assert ratio(found, "bare", of_cpu=True) is None
    assert ratio(of(bare=1000), "bare") is None


@pytest.mark.parametrize(
    ("ours", "target", "met"),
    [
        (180, Target("read", 1.8, "gocryptfs"), True),
        (179, Target("read", 1.8, "gocryptfs"), False),
        (80, Target("read", 0.8, "gocryptfs", at_most=True), True),
        (81, Target("read", 0.8, "gocryptfs", at_most=True), False),
        (150, Target("read", 150, at_most=True), True),
        (151, Target("read", 150, at_most=True), False),
        (180, Target("read", 0.6, "bare"), None),
    ],
)
def test_a_target_is_met_from_its_bound_on(ours: float, target: Target, met: bool | None) -> None:
    (verdict,) = judged(of(ioflt=ours, gocryptfs=100), [target, Target("write", 0.0)])
    assert verdict.met is met


def test_a_target_of_processor_time_is_about_nothing_else() -> None:
    target = Target("read", 0.8, "gocryptfs", at_most=True, of_cpu=True)
    (verdict,) = judged(figures(ioflt=[Sample(9, 0.2)], gocryptfs=[Sample(1, 0.4)]), [target])
    assert (verdict.reached, verdict.met) == (0.5, True)


def test_the_json_names_each_place() -> None:
    found = figures(ioflt=[Sample(9, 0.2), Sample(7, 0.2)], gocryptfs=[Sample(4, 0.4)], luks=[Sample(3)])
    assert to_json([found], [Target("read", 1.8, "gocryptfs")]) == {
        "rows": [
            {
                "row": "read",
                "unit": "MiB/s",
                "ioflt": 8,
                "clear": None,
                "bare": None,
                "gocryptfs": 4,
            },
            {
                "row": "read-cpu",
                "unit": "s/GiB",
                "ioflt": 0.2,
                "clear": None,
                "bare": None,
                "gocryptfs": 0.4,
            },
        ],
        "details": [
            {
                "row": "read",
                "rounds": 2,
                "medians": {"ioflt": 8, "gocryptfs": 4, "luks": 3},
                "spread": {"ioflt": (7, 9), "gocryptfs": (4, 4), "luks": (3, 3)},
                "cpu_s_per_gib": {"ioflt": 0.2, "gocryptfs": 0.4},
                "targets": [
                    {"of": "row", "than": "gocryptfs", "at_least": 1.8, "reached": 2, "met": True},
                ],
            }
        ],
    }


def test_a_row_without_processor_time_has_no_row_of_it() -> None:
    rows = to_json([of(ioflt=9)], [])["rows"]
    assert rows == [
        {"row": "read", "unit": "MiB/s", "ioflt": 9, "clear": None, "bare": None, "gocryptfs": None}
    ]


def test_what_is_to_be_reached() -> None:
    """A row of each kind, as the targets were set."""
    bounds = {(target.row, target.than, target.of_cpu): (target.bound, target.at_most) for target in TARGETS}
    assert bounds["read-1m-buffered", "gocryptfs", False] == (1.8, False)
    assert bounds["write-1m-direct", "bare", False] == (0.5, False)
    assert bounds["read-1m-direct", "gocryptfs", True] == (0.8, True)
    assert bounds["randwrite-4k-qd16", "gocryptfs", False] == (1.3, False)
    assert bounds["unlink", "bare", False] == (0.8, False)
    assert bounds["help", None, False] == (150, True)
