"""Counts what passes: operations, bytes, and the time spent below."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter_ns

from ioflt.filters.base import Filter, Link
from ioflt.filters.native import Native


@dataclass(slots=True)
class Counters:
    """Totals of a mount; times in nanoseconds. Updated without a lock: a lost count harms nobody."""

    reads: int = 0
    read_bytes: int = 0
    read_ns: int = 0
    writes: int = 0
    write_bytes: int = 0
    write_ns: int = 0
    syncs: int = 0
    sync_ns: int = 0


class Trace(Filter):
    """Adds to `counters`, which many files may share."""

    def __init__(self, below: Link, counters: Counters) -> None:
        super().__init__(below)
        self._counters = counters

    def read(self, offset: int, length: int, *, nowait: bool = False) -> bytearray | memoryview:
        begin = perf_counter_ns()
        data = self.below.read(offset, length, nowait=nowait)
        counters = self._counters
        counters.reads += 1
        counters.read_bytes += len(data)
        counters.read_ns += perf_counter_ns() - begin
        return data

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        begin = perf_counter_ns()
        self.below.write(offset, data)
        counters = self._counters
        counters.writes += 1
        counters.write_bytes += len(data)
        counters.write_ns += perf_counter_ns() - begin

    def native(self) -> Native | None:
        return self.below.native()  # who reads and writes by that counts, too

    def sync(self, *, data_only: bool) -> None:
        begin = perf_counter_ns()
        self.below.sync(data_only=data_only)
        self._counters.syncs += 1
        self._counters.sync_ns += perf_counter_ns() - begin
