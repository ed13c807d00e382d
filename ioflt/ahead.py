"""Work of which a thread does the next few steps while the last one is used: in order, bounded, over when the
block is.

A thread pays where the interpreter's lock is free: in hashes, ciphers, reads and writes of large pieces.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import repeat, takewhile
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

#: Results that wait to be asked for: one is used, one is ready, one is made.
AHEAD: Final = 2


@contextmanager
def worked(work: Callable[[T], R], items: Iterable[T]) -> Iterator[Iterator[R]]:
    """In the block: `work` of each item, in order; a thread does it for up to `AHEAD` items before they are
    asked for. `items` are taken by the caller's thread.

    What `work` raises is raised where its result would have been; what `items` raise, at once. However the
    block ends, no work is begun after it, and none is under way.
    """
    waiting: deque[Future[R]] = deque()

    def results() -> Iterator[R]:
        for item in items:
            waiting.append(thread.submit(work, item))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    thread = ThreadPoolExecutor(1, "ahead")
    try:
        yield results()
    finally:
        thread.shutdown(cancel_futures=True)


@contextmanager
def taken(items: Generator[T, None, None]) -> Iterator[Iterator[T]]:
    """In the block: the same items, which that thread takes. What they raise is raised where the next one
    would have been; they are closed when the block ends.
    """
    end = object()
    with closing(items), worked(lambda _: next(items, end), repeat(None)) as found:
        yield takewhile(lambda item: item is not end, found)  # type: ignore[arg-type]  # what is left is a T
