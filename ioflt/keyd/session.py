"""What keyd knows of a connection: who made it, what it is for, and for whom."""

from __future__ import annotations

from dataclasses import dataclass

from ioflt.transport.unix import Peer


@dataclass(frozen=True, slots=True)
class Session:
    """`operation`: what the peer said that it is for, empty for single requests about keys. `as_principal`:
    for whom, if not for the peer's user; only who may do everything sets that.
    """

    peer: Peer
    operation: str = ""
    as_principal: str | None = None
