"""Who may connect to keyd, and for whom. What they may ask then: `guarded`."""

from __future__ import annotations

import grp
import os
from dataclasses import dataclass

from ioflt.keyd import accounts
from ioflt.transport.unix import Peer

#: Members may connect to a keyd in system mode.
GROUP = "ioflt"


@dataclass(frozen=True, slots=True)
class Access:
    """User mode: the user himself. System mode: root, and members of `group`."""

    uid: int
    group: int | None

    @classmethod
    def of_this_process(cls, *, system: bool) -> Access:
        """The rule of the mode; no group where it does not exist."""
        return cls(os.geteuid(), _group_id() if system else None)

    def may_connect(self, peer: Peer) -> bool:
        """Whether the peer may ask for anything. Asks the host for its users.

        A member has an account: who has subordinate uids is thousands of others, each in his groups.
        """
        if self.owns(peer):
            return True
        return self.group is not None and self.group in peer.groups and accounts.exists(peer.uid)

    def owns(self, peer: Peer) -> bool:
        """Whether the peer is who keyd belongs to, or root: he may act for others."""
        return peer.uid in (0, self.uid)


def _group_id() -> int | None:
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None
