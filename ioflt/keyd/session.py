"""What keyd knows of a connection: who made it, what it is for, and for whom; and what that may do."""

from __future__ import annotations

from dataclasses import dataclass, field

from ioflt.access import principals, uses
from ioflt.access.objects import ANYWHERE, Place
from ioflt.access.principals import Caller
from ioflt.access.privileges import Privilege
from ioflt.access.state import AccessState
from ioflt.access.uses import Uses
from ioflt.errors import IofltError
from ioflt.keyd import accounts
from ioflt.keyd.authority import Authority
from ioflt.keyd.exports import Export
from ioflt.keyd.watched import Watched
from ioflt.transport.unix import Peer
from ioflt.wire.keyd.requests import Hello


@dataclass(slots=True)
class Session:
    """`caller`: for whom everything is done. `operation`: what the peer said that it is about, which gives no
    privilege; empty for single requests about keys.

    For several threads: what was decided is asked again where two overlap.
    """

    caller: Caller
    operation: str
    #: Who connected.
    peer: Peer
    #: Whether that is somebody else than who connected.
    for_other: bool = False
    uses: Uses = field(init=False)
    #: Whose record was shown last: what a request about no one's key is about.
    about: Place = field(init=False, default=ANYWHERE)
    #: What this connection exports.
    export: Export | None = field(init=False, default=None)
    #: The VM whose mounts it has asked.
    watched: tuple[Watched, Place] | None = field(init=False, default=None)
    #: What was decided by that state, so that the next request waits for nothing.
    _state: AccessState | None = field(init=False, default=None)
    _allowed: set[tuple[Privilege, str | None, str | None, str | None]] = field(
        init=False, default_factory=set
    )

    def __post_init__(self) -> None:
        self.uses = uses.of(self.operation)

    @classmethod
    def of(cls, peer: Peer, hello: Hello) -> Session:
        """Asks the host for names of users and groups. Raises UsageError for what is no principal."""
        if hello.as_principal is None:
            return cls(accounts.caller(peer), hello.operation, peer)
        caller = accounts.caller_named(principals.parse(hello.as_principal))
        return cls(caller, hello.operation, peer, for_other=True)

    def require(self, authority: Authority, privilege: Privilege, place: Place) -> None:
        """Raises DeniedError, and why nobody can say."""
        known = (privilege, place.vm, place.datastore, place.folder)
        try:
            state: AccessState | None = authority.state
        except IofltError:  # then the authority knows what is to be done
            state = None
        if state is None or state is not self._state:
            self._state, self._allowed = state, set()
        if known not in self._allowed:
            authority.require(self.caller, privilege, place)
            if state is not None:
                self._allowed.add(known)
