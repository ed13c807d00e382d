"""How trying a key provider out is told of, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One step: of which server (empty: of all), what was done, how it went; `error` when it failed."""

    server: str
    step: str
    result: str
    error: str = ""


Tell = Callable[[Step], None]
