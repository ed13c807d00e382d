"""Who may ask keyd for what. SPEC of the protocol: wire/keyd."""

from __future__ import annotations

import grp
import os
from dataclasses import dataclass

from ioflt.transport.unix import Peer
from ioflt.wire.keyd.messages import (
    AddKey,
    AddPolicy,
    ForgetKey,
    Lock,
    MarkKeyHolder,
    Reload,
    RemoveKey,
    RemovePolicy,
    RequestBody,
    SetKeyCache,
    Stop,
    Unlock,
)

#: Members may use the keys of a keyd in system mode.
GROUP = "ioflt"

_OWNERS_ONLY = (
    ForgetKey, RemoveKey, AddKey, SetKeyCache, AddPolicy, RemovePolicy, MarkKeyHolder,
    Lock, Unlock, Reload, Stop,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Access:
    """User mode: the user himself. System mode: root for everything, members of `group` for keys."""

    uid: int
    group: int | None

    @classmethod
    def of_this_process(cls, *, system: bool) -> Access:
        """The rule of the mode; no group where it does not exist."""
        return cls(os.geteuid(), _group_id() if system else None)

    def may_connect(self, peer: Peer) -> bool:
        """Whether the peer may ask for keys."""
        return self.owns(peer) or (self.group is not None and self.group in peer.groups)

    def may_ask(self, peer: Peer, request: RequestBody) -> bool:
        """Whether a peer that may connect may ask this."""
        return self.owns(peer) or not isinstance(request, _OWNERS_ONLY)

    def owns(self, peer: Peer) -> bool:
        """Whether the peer is who keyd belongs to, or root."""
        return peer.uid in (0, self.uid)


def _group_id() -> int | None:
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None
