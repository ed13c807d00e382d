"""Names of what we put into somebody's QEMU, each with a lock: while that is held, its process lives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ioflt import paths
from ioflt.transport import owned


@contextmanager
def held(name: str) -> Iterator[None]:
    """The lock of a name. Raises BlockingIOError where another process has it."""
    path = paths.find().ensure().run / name
    lock = owned.try_take(path)
    if lock < 0:
        raise BlockingIOError(f"another process has the name {name}")
    try:
        yield
    finally:
        owned.give_free(path, lock)
