"""Who may wait for which provider, so that nobody else waits for it.

A request is answered in a thread, and threads are few. It begins among those that wait for nobody: what is in
memory answers it. When it has to ask a provider after all, it leaves them by `GoesOut`, and begins again in
one of the threads that this provider has for itself. Requests ask before they change anything, so nothing is
done twice. Whoever has no limit set, such as the upkeep, may wait for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_allowed: ContextVar[frozenset[str] | None] = ContextVar("allowed", default=None)


class GoesOut(Exception):
    """The request has to wait for `provider`, and may not where it is."""

    def __init__(self, provider: str) -> None:
        super().__init__(provider)
        self.provider = provider


@contextmanager
def only_to(providers: frozenset[str]) -> Iterator[None]:
    """What is done in the block waits for no other providers; a thread that it starts has a copy of that."""
    before = _allowed.set(providers)
    try:
        yield
    finally:
        _allowed.reset(before)


def check(provider: str) -> None:
    """Called by whoever is about to wait for the provider. Raises GoesOut."""
    allowed = _allowed.get()
    if allowed is not None and provider not in allowed:
        raise GoesOut(provider)
