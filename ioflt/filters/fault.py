"""Errors on demand, for tests: the n-th call of an operation fails."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from ioflt.filters.base import Filter, Link


@dataclass(slots=True)
class Plan:
    """Which calls fail. `errors["write"] = {3: ENOSPC}` fails the third write; calls count from 1."""

    errors: dict[str, dict[int, int]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def step(self, operation: str) -> None:
        """Count one call; raise its OSError if one is planned."""
        count = self.calls.get(operation, 0) + 1
        self.calls[operation] = count
        number = self.errors.get(operation, {}).get(count)
        if number is not None:
            raise OSError(number, os.strerror(number))


class Fault(Filter):
    """Fails as its plan says, and otherwise passes everything on."""

    def __init__(self, below: Link, plan: Plan) -> None:
        super().__init__(below)
        self._plan = plan

    def read(self, offset: int, length: int, *, nowait: bool = False) -> bytearray | memoryview:
        self._plan.step("read")
        return self.below.read(offset, length, nowait=nowait)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self._plan.step("write")
        self.below.write(offset, data)

    def resize(self, size: int) -> None:
        self._plan.step("resize")
        self.below.resize(size)

    def allocate(self, offset: int, length: int, *, keep_size: bool) -> None:
        self._plan.step("allocate")
        self.below.allocate(offset, length, keep_size=keep_size)

    def punch(self, offset: int, length: int) -> None:
        self._plan.step("punch")
        self.below.punch(offset, length)

    def zero(self, offset: int, length: int) -> None:
        self._plan.step("zero")
        self.below.zero(offset, length)

    def seek_data(self, offset: int) -> int:
        self._plan.step("seek_data")
        return self.below.seek_data(offset)

    def seek_hole(self, offset: int) -> int:
        self._plan.step("seek_hole")
        return self.below.seek_hole(offset)

    def sync(self, *, data_only: bool) -> None:
        self._plan.step("sync")
        self.below.sync(data_only=data_only)
