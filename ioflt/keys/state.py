"""What keyd knows of a key."""

from __future__ import annotations

from dataclasses import dataclass

from ioflt.errors import KeyUnavailableError
from ioflt.wire.keyd.values import Source


@dataclass(frozen=True, slots=True)
class KeyState:
    """Whether a key is in memory, sealed to this host, missing. Times are in seconds since 1970.

    `source`: where the copy in memory is from, None: there is none; `fetched`: when its provider gave it;
    `expires`: until when it is good, None: until keyd ends or is locked. `sealed`: until when a sealed copy
    is good, None: there is none. `missing`: why the provider did not give it when it was last asked, and
    `since` when it does not.
    """

    source: Source | None
    fetched: int | None
    expires: int | None
    sealed: int | None
    missing: KeyUnavailableError | None
    since: int | None

    @property
    def cached(self) -> bool:
        """Whether keyd has it in memory."""
        return self.source is not None

    @property
    def at_hand(self) -> bool:
        """Whether it is had without its provider."""
        return self.cached or self.sealed is not None
