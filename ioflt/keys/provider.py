"""What every key provider offers: a key id → a 32-byte KEK."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ioflt.crypto.secret import Secret
from ioflt.errors import KeyUnavailableError
from ioflt.wire.keyd.replies import ProviderStatus

#: Bytes of a KEK.
KEK_SIZE = 32


class Generations(Protocol):
    """Last seen generations of homes, kept beside the keys of a provider. Blocking, for at most seconds.

    Each raises KeyUnavailableError when the provider cannot be asked.
    """

    def seen(self, key_id: str, home_id: str) -> int:
        """The highest that was noted of the home with that KEK; 0 when none was, or none can be."""
        ...

    def note(self, key_id: str, home_id: str, generation: int) -> None:
        """Note it, unless a higher one is there, or none can be."""
        ...


class KeyProvider(Protocol):
    """Makes and gives KEKs. Blocking; safe for calls from several threads.

    Its ways to have no key are kept apart, as in `errors`: ProviderUnavailable (nobody answers: what is
    cached stays good), KeyNotFound, KeyNotUsable, KeyCorrupt, ProviderLocked (a passphrase is needed).
    """

    @property
    def name(self) -> str:
        """The name by which a KeyRef finds it."""
        ...

    @property
    def generations(self) -> Generations | None:
        """Where it keeps generations of homes; None: it cannot."""
        ...

    def create(self) -> str:
        """A new KEK's id. Raises KeyUnavailableError."""
        ...

    def get(self, ids: Sequence[str]) -> list[Secret | KeyUnavailableError]:
        """A KEK or the reason why there is none, for each id, in order. Raises nothing of its own."""
        ...

    def activate(self, key_id: str) -> None:
        """Have a KEK that is there active, so that new data may have it; nothing where keys have no states.

        Raises KeyNotUsable when its state, or what it is for, forbids that; KeyUnavailableError.
        """
        ...

    def unlock(self, passphrase: Secret | None) -> None:
        """Become ready; without a passphrase by what the host has. Raises KeyUnavailableError, UsageError."""
        ...

    def lock(self) -> None:
        """Forget what `unlock` opened. Only `unlock` opens it again."""
        ...

    def status(self) -> ProviderStatus:
        """What it is and whether it is ready; asks for no passphrase."""
        ...
