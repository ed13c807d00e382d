"""What is to be reached, as shares within one run on two cores. A figure alone says much about a machine."""

from __future__ import annotations

from collections.abc import Iterator

from .results import Target

_SEQUENTIAL_READ = ("read-1m-direct", "read-1m-buffered")
_SEQUENTIAL_WRITE = ("write-1m-direct", "write-1m-buffered")

#: Rows, at least so many times gocryptfs's figure, at least that share of the bare pass-through's.
_SHARES = (
    (_SEQUENTIAL_READ, 1.8, 0.6),
    (_SEQUENTIAL_WRITE, 1.8, 0.5),
    (("read-128k",), 1.2, 0.8),
    (("randread-4k", "randread-4k-qd16"), 1.0, 0.95),
    (("randwrite-4k", "randwrite-4k-qd16"), 1.3, 0.9),
    (("create", "unlink", "stat-warm", "stat-timed-out"), 0.4, 0.8),
)

#: Of processor time a GiB, at most that share of gocryptfs's.
_CPU_SHARE = 0.8


def _all() -> Iterator[Target]:
    for rows, of_gocryptfs, of_bare in _SHARES:
        for row in rows:
            yield Target(row, of_gocryptfs, "gocryptfs")
            yield Target(row, of_bare, "bare")
    for row in (*_SEQUENTIAL_READ, *_SEQUENTIAL_WRITE):
        yield Target(row, _CPU_SHARE, "gocryptfs", at_most=True, of_cpu=True)
    yield Target("two-vms-gain", 1.0)
    yield Target("thin-share", 0.95)
    yield Target("help", 150.0, at_most=True)  # ms
    yield Target("vms-stat", 1000.0, at_most=True)  # ms
    yield Target("vms-memory", 200.0, at_most=True)  # MiB


TARGETS = tuple(_all())
