"""How many connections there may be of those whose keyd it is not: each user's, and of all together.

Root, and who keyd belongs to, get in however many there are of others. For trio's thread alone.
"""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Final

from ioflt.keyd.access import Access
from ioflt.transport.unix import Peer

#: Connections of one user that are served: each may have a frame of 5 MiB half read.
MAX_EACH: Final = 64
#: Connections of one user that are told so.
_MAX_TOLD: Final = 2 * MAX_EACH


class Room(Enum):
    """What becomes of a connection."""

    SERVED = auto()
    TOLD = auto()  # that there are too many
    CLOSED = auto()


class Guests:
    """Those who are connected now. `most`: of all together; half of the descriptors that there may be."""

    def __init__(self, access: Access, most: int | None = None) -> None:
        self._access = access
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 if most is None else most
        self._by_uid = Counter[int]()

    @contextmanager
    def entered(self, peer: Peer) -> Iterator[Room]:
        """While a connection lasts: whether there is room for it."""
        if self._access.owns(peer):
            yield Room.SERVED
            return
        self._by_uid[peer.uid] += 1
        own, all_ = self._by_uid[peer.uid], self._by_uid.total()
        try:
            if own <= MAX_EACH and all_ <= self._most:
                yield Room.SERVED
            else:
                yield Room.TOLD if own <= _MAX_TOLD and all_ <= self._most else Room.CLOSED
        finally:
            self._by_uid[peer.uid] -= 1
            if not self._by_uid[peer.uid]:
                del self._by_uid[peer.uid]
