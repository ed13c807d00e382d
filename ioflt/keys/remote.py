"""What key providers share whose keys are on servers: a lock, what went wrong last, expiry warnings."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Final, Literal

from ioflt.crypto.certificates import Certificate
from ioflt.crypto.secret import Secret
from ioflt.errors import ProviderLocked, UsageError
from ioflt.wire.keyd.messages import ProviderStatus

#: How long before a certificate expires the user hears of it.
WARNING: Final = timedelta(days=30)


class RemoteProvider:
    """The part of a `keys.provider.KeyProvider` that asks no server. Safe for several threads."""

    kind: ClassVar[str]

    def __init__(self) -> None:
        self._lock = threading.Lock()  # which connection or login there is, and whether there may be one
        self._locked = False
        self._trouble = ""

    @property
    def name(self) -> str:
        raise NotImplementedError

    def close(self) -> None:
        """Give up connections and logins. The next call makes others."""
        raise NotImplementedError

    def missing(self) -> str:
        """What the provider still needs before any server can be asked; empty: nothing."""
        return ""

    def opened_by(self) -> str:
        """What our side shows to the servers."""
        raise NotImplementedError

    def unlock(self, passphrase: Secret | None) -> None:
        """End a lock. There is no passphrase: what `opened_by` names opens the servers."""
        if passphrase is not None:
            raise UsageError(f"the provider {self.name} has no passphrase")
        with self._lock:
            self._locked = False

    def lock(self) -> None:
        """`close`, and no connection or login any more until `unlock`."""
        with self._lock:
            self._locked = True
        self.close()

    def status(self) -> ProviderStatus:
        """Whether it could be used when it was last used; asks no server."""
        state: Literal["ready", "locked", "unavailable"] = "ready"
        reason = self.missing() or self._trouble
        if self._locked:
            state, reason = "locked", f"the provider {self.name} is locked"
        elif reason:
            state = "unavailable"
        return ProviderStatus(self.name, self.kind, state, (self.opened_by(),), True, reason)

    def _refuse_if_locked(self) -> None:
        if self._locked:
            raise ProviderLocked(f"the provider {self.name} is locked")

    def _expiring(self, held: Iterable[tuple[str, Certificate]]) -> list[str]:
        """A line for each certificate, named, that expires soon, or did."""
        now = datetime.now(UTC)
        return [
            f"{what} of the provider {self.name}"
            f" {'expired' if found.not_after < now else 'expires'} on {found.not_after:%Y-%m-%d}"
            for what, found in held
            if found.not_after < now + WARNING
        ]
