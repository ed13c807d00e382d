"""All rows there are, in the order in which they are measured and shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .names import Names, Opened
from .programs import BenchError
from .targets import TARGETS
from .transfers import TRANSFERS, ThinSizes, TwoVms
from .vms import Convert, Help, ManyVms, Rewrites
from .work import Work

WORKS: tuple[Work, ...] = (
    *TRANSFERS,
    TwoVms(),
    ThinSizes(),
    Names(),
    Opened(),
    Convert(),
    Rewrites(),
    Help(),
    ManyVms(),
)

NAMES = tuple(row.name for work in WORKS for row in work.rows)

PLACES = tuple(dict.fromkeys(place for work in WORKS for place in work.places))

#: Works that take minutes, or twice as long as others.
_SLOW = (TwoVms, ThinSizes, ManyVms)

#: All other rows with a target.
QUICK = tuple(
    row.name
    for work in WORKS
    for row in work.rows
    if row.name in {target.row for target in TARGETS} and not isinstance(work, _SLOW)
)


def chosen(names: Iterable[str], known: Sequence[str]) -> Sequence[str]:
    """Those names, in order; all if there are none. Raises BenchError for one that is not known."""
    wanted = set(names)
    if unknown := wanted - set(known):
        raise BenchError(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return [name for name in known if name in wanted] or known
