"""The native provider: KEKs derived from one key derivation key (KDK), which a file keeps wrapped.

KEK = HKDF(KDK, "kek", key id). A key id is `<kdk id>.<random uuid>`, so that an id of another KDK is told
from ours: without that, any id would derive some key.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ioflt.crypto.kdf import hkdf
from ioflt.crypto.secret import Secret
from ioflt.errors import IofltError, KeyNotFound, KeyNotUsable, KeyUnavailableError, ProviderLocked
from ioflt.keys.cache import KeyCache
from ioflt.keys.directory import LOCAL
from ioflt.keys.native import slots
from ioflt.keys.native.file import ProviderFile, label_of
from ioflt.wire.keyd.replies import ProviderStatus


class NativeProvider:
    """One provider file, and its KDK in a `KeyCache` while open. Opens by itself if a slot allows it."""

    generations = None

    def __init__(self, file: ProviderFile, path: Path, kdks: KeyCache[str]) -> None:
        self.file = file
        self._path = path
        self._kdks = kdks
        self._locked = False
        self._lock = threading.Lock()  # no KDK enters the cache after `lock`
        self._opening = threading.Lock()
        self._failure: tuple[float, KeyUnavailableError] | None = None  # the last one, and when

    @property
    def name(self) -> str:
        return self.file.name

    def create(self) -> str:
        """A new key id. Nothing is stored for it.

        The provider that is made at first use serves at once, with a warning; one that was made on purpose
        makes no key that could be lost with this host.
        """
        self._kdk().wipe()  # no key is named that could not be had
        if not self.file.backed_up and self.name != LOCAL:
            raise KeyNotUsable(f"the provider {self.name} makes no keys until it was backed up")
        return f"{self.file.kdk_id}.{uuid.uuid4()}"

    def get(self, ids: Sequence[str]) -> list[Secret | KeyUnavailableError]:
        """The KEKs, derived again at each call."""
        try:
            kdk = self._kdk()
        except KeyUnavailableError as error:
            return [error] * len(ids)
        with kdk:
            return [self._derive(kdk, key_id) for key_id in ids]

    def activate(self, key_id: str) -> None:
        """Keys that are derived have no states."""

    def unlock(self, passphrase: Secret | None) -> None:
        """Open by the passphrase, or by this host when there is none."""
        if passphrase is None:
            self._locked = False
            self._kdk().wipe()
            return
        with slots.open_by_passphrase(self.file, passphrase, self._path) as kdk, self._lock:
            self._kdks.put(self.file.uuid, kdk)
            self._locked = False

    def lock(self) -> None:
        """Drop the KDK, and do not open again by itself."""
        with self._lock:
            self._locked = True
            self._kdks.drop_if(lambda uuid: uuid == self.file.uuid)

    def status(self) -> ProviderStatus:
        """Its slots, and whether it opens."""
        state: Literal["ready", "locked", "unavailable"] = "ready"
        reason = ""
        try:
            self._kdk().wipe()
        except ProviderLocked as error:
            state, reason = "locked", error.message
        except IofltError as error:
            state, reason = "unavailable", error.message
        kinds = tuple(label_of(slot) for slot in self.file.slots)
        return ProviderStatus(self.name, "native", state, kinds, self.file.backed_up, reason)

    def _kdk(self) -> Secret:
        """A copy of the KDK, for the caller to wipe. Raises KeyUnavailableError."""
        if self._locked:
            raise ProviderLocked(f"the provider {self.name} is locked")
        asked = time.monotonic()
        cached = self._kdks.get(self.file.uuid)
        if cached is not None:
            return cached
        with self._opening:  # it may start a program or wait for a server: once for all who want it
            cached = self._kdks.get(self.file.uuid)
            if cached is not None:
                return cached
            if self._failure is not None and self._failure[0] >= asked:
                raise type(self._failure[1])(self._failure[1].message, file=self._failure[1].file)
            return self._open()

    def _open(self) -> Secret:
        try:
            kdk = slots.open_by_host(self.file, self._path)
        except KeyUnavailableError as error:
            self._failure = time.monotonic(), error
            raise
        if kdk is None:
            raise ProviderLocked(f"the provider {self.name} waits for its passphrase")
        with self._lock:
            if not self._locked:
                self._kdks.put(self.file.uuid, kdk)
        return kdk

    def _derive(self, kdk: Secret, key_id: str) -> Secret | KeyUnavailableError:
        if not key_id.startswith(f"{self.file.kdk_id}."):
            return KeyNotFound(f"the provider {self.name} did not make the key {key_id[:80]}")
        return hkdf(kdk, "kek", key_id.encode())
