"""What key providers share whose keys are elsewhere: a lock, a file that lets us in, what went wrong last,
expiry warnings.
"""

from __future__ import annotations

import os
import stat
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Final, Literal

from ioflt.crypto.certificates import Certificate
from ioflt.crypto.secret import Secret
from ioflt.errors import ProviderLocked, ProviderUnavailable, UsageError
from ioflt.keys.provider import Generations
from ioflt.wire.keyd.replies import ProviderStatus

#: How long before a certificate expires the user hears of it.
WARNING: Final = timedelta(days=30)

_MAX_CREDENTIAL: Final = 64 << 10


class RemoteProvider(ABC):
    """The part of a `keys.provider.KeyProvider` that asks no server. Safe for several threads."""

    kind: ClassVar[str]
    generations: Generations | None = None

    def __init__(self) -> None:
        self._lock = threading.Lock()  # which connection or login there is, and whether there may be one
        self._locked = False
        self._trouble = ""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name by which a KeyRef finds it."""

    @abstractmethod
    def close(self) -> None:
        """Give up connections and logins. The next call makes others."""

    def missing(self) -> str:
        """What the provider still needs before any server can be asked; empty: nothing."""
        return ""

    def why_locked(self) -> str:
        """What waits for `unlock`; empty: nothing does."""
        return f"the provider {self.name} is locked" if self._locked else ""

    @abstractmethod
    def opened_by(self) -> str:
        """What our side shows to who has the keys."""

    def unlock(self, passphrase: Secret | None) -> None:
        """End a lock. There is no passphrase: what `opened_by` names opens the servers."""
        if passphrase is not None:
            raise UsageError(f"the provider {self.name} has no passphrase")
        with self._lock:
            self._locked = False
            self._trouble = ""

    def lock(self) -> None:
        """`close`, and no connection or login any more until `unlock`."""
        with self._lock:
            self._locked = True
        self.close()

    def status(self) -> ProviderStatus:
        """Whether it could be used when it was last used; asks no server."""
        state: Literal["ready", "locked", "unavailable"] = "ready"
        reason = self.missing() or self._trouble
        if lock := self.why_locked():
            state, reason = "locked", lock
        elif reason:
            state = "unavailable"
        return ProviderStatus(self.name, self.kind, state, (self.opened_by(),), True, reason)

    def _refuse_if_locked(self) -> None:
        if lock := self.why_locked():
            raise ProviderLocked(lock)

    def _expiring(self, held: Iterable[tuple[str, Certificate]]) -> list[str]:
        """A line for each certificate, named, that expires soon, or did."""
        now = datetime.now(UTC)
        return [
            f"{what} of the provider {self.name}"
            f" {'expired' if found.not_after < now else 'expires'} on {found.not_after:%Y-%m-%d}"
            for what, found in held
            if found.not_after < now + WARNING
        ]


def credential(path: str, name: str) -> Secret:
    """The content of the file by which the provider `name` logs in, which must be nobody else's to read.

    Raises ProviderUnavailable.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(descriptor, "rb", buffering=0) as opened:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ProviderUnavailable(f"{path}, by which the provider {name} logs in, is no file")
            if found.st_mode & 0o077:
                raise ProviderUnavailable(
                    f"{path}, by which the provider {name} logs in, is open to others:"
                    f" mode {stat.S_IMODE(found.st_mode):o}"
                )
            with Secret.allocate(_MAX_CREDENTIAL) as content:  # no copy of it stays in freed memory
                return Secret(content.view()[: opened.readinto(content.buffer())])
    except OSError as error:
        text = os.strerror(error.errno or 0)
        raise ProviderUnavailable(f"{path}, by which the provider {name} logs in: {text}") from None
