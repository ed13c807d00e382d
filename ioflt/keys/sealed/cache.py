"""One provider's keys, sealed to this host.

They lie in memory as in the file, wrapped; the file's own key, which opens them, is in a `KeyCache` from the
first use until `close`. What is put is written by `save`, what is dropped at once. Each time the whole file
is written anew and the one before is overwritten.

A file that cannot be used is left as it is, and its reason told: it may be good again in another state of the
machine. Only `start` puts another in its place.

Locks: `_lock` for what is in memory; `_writing`, taken before it, for what is on disk.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ioflt.crypto import mac
from ioflt.crypto.kdf import hkdf
from ioflt.crypto.secret import Secret
from ioflt.crypto.wrap import unwrap, wrap
from ioflt.errors import AuthenticationError, BugError, IofltError, KeyUnavailableError, StorageError
from ioflt.keys import files
from ioflt.keys.cache import KeyCache
from ioflt.keys.directory import ProviderDirectory
from ioflt.keys.sealed import file, seal
from ioflt.keys.sealed.clock import LatestTime
from ioflt.keys.sealed.file import MAX_FILE, MAX_KEYS, Content, Seal, SealedKey
from ioflt.types import MAX_KEY_ID
from ioflt.wire.keyd.replies import CacheStatus

DAY = 86400

#: Seconds after which the time that was seen is written again, although no key came: so much a clock that is
#: set back can win by a restart.
SAVE_TIME_S = 3600

#: Seconds after which a file is tried again that could not be opened for now.
_RETRY_S = 60.0

_log = logging.getLogger(__name__)

#: What seals the key of a cache, for the provider of that uuid, to this host.
Sealer = Callable[[str, Secret], Seal]


@dataclass(frozen=True, slots=True)
class _Entry:
    fetched: int
    blob: bytes


@dataclass(frozen=True, slots=True)
class _Open:
    """What the file said, and the keys that are good."""

    days: int
    seal: Seal
    keys: dict[str, _Entry]


class SealedCache:
    """The sealed keys of the provider `name` with that uuid. Safe for calls from several threads.

    `own_keys` holds the keys of such files, by uuid.
    """

    def __init__(
        self,
        directory: ProviderDirectory,
        name: str,
        uuid: str,
        clock: LatestTime,
        own_keys: KeyCache[str],
        sealer: Sealer = seal.to_this_host,
    ) -> None:
        self.name = name
        self.uuid = uuid
        #: While it is set the file is not opened.
        self.locked = False
        self._directory = directory
        self._path = directory.sealed_keys(name)
        self._clock = clock
        self._own_keys = own_keys
        self._sealer = sealer
        self._lock = threading.RLock()
        self._writing = threading.Lock()
        self._open: _Open | None = None
        self._trouble = ""
        self._retry: float | None = None  # when what `_trouble` says may have passed
        self._changed = False
        self._saved = 0

    def ready(self) -> bool:
        """Whether there are sealed keys to be used; opens the file if need be."""
        with self._lock:
            if self._open is not None:
                return True
            if self.locked or not self._path.exists() or (self._trouble and not self._may_retry()):
                return False
            try:
                self._open = self._read()
                self._trouble = ""
            except IofltError as error:
                self._fail(error)
            return self._open is not None

    def get(self, key_id: str) -> tuple[Secret, int, int] | None:
        """The key, when its provider gave it, and until when it is good. None: it is not here."""
        with self._lock:
            expires = self.expires(key_id)
            if expires is None or self._open is None:
                return None
            entry = self._open.keys[key_id]
            with self._derived("cache/wrap") as wrapping:
                return unwrap(wrapping, entry.blob, self._aad(key_id)), entry.fetched, expires

    def expires(self, key_id: str) -> int | None:
        """Until when the sealed copy of a key is good; None when there is none."""
        with self._lock:
            if not self.ready() or self._open is None:
                return None
            entry = self._open.keys.get(key_id)
            end = 0 if entry is None else entry.fetched + self._open.days * DAY
            return end if end > self._clock.now() else None

    def put(self, key_id: str, kek: Secret, fetched: int) -> None:
        """Keep a key that its provider gave then; on disk with the next `save`. Nothing while not `ready`."""
        with self._lock:
            if self._open is None or not 0 < len(key_id.encode()) <= MAX_KEY_ID:
                return
            with self._derived("cache/wrap") as wrapping:
                blob = wrap(wrapping, kek, self._aad(key_id))
            keys = self._open.keys
            keys.pop(key_id, None)
            if len(keys) >= MAX_KEYS:
                del keys[next(iter(keys))]  # put before all others
            keys[key_id] = _Entry(fetched, blob)
            self._changed = True

    def drop(self, ids: Iterable[str]) -> None:
        """Forget keys, on disk too when this returns. Raises StorageError."""
        with self._writing:
            with self._lock:
                if not self.ready() or self._open is None:
                    return
                gone = [key_id for key_id in ids if self._open.keys.pop(key_id, None) is not None]
            if gone:
                self._write()

    def due(self) -> list[str]:
        """Keys whose provider should be asked for them again, lest they expire although it has them."""
        with self._lock:
            if not self.ready() or self._open is None:
                return []
            self._drop_expired()
            age = min(DAY, self._open.days * DAY // 4)
            old = self._clock.now() - age
            return [key_id for key_id, entry in self._open.keys.items() if entry.fetched <= old]

    def save(self) -> None:
        """Write what has changed, and from time to time how late it is. A failure is logged, tried again."""
        with self._writing:
            with self._lock:
                if self._open is None:
                    return
                self._drop_expired()
                now = self._clock.now()
                if not self._changed and now < self._saved + SAVE_TIME_S:
                    return
            try:
                self._write()
            except IofltError as error:
                if not self._trouble:
                    _log.error("the sealed keys of the provider %s are not written: %s", self.name, error)
                self._trouble = str(error)
            else:
                self._trouble = ""

    def start(self, days: int) -> None:
        """Seal keys to this host for so many days; those that are sealed get another end.

        Raises PeerError when this host has nothing to seal them by, StorageError.
        """
        with self._writing:
            with self._lock:
                if self.ready() and self._open is not None:
                    self._open = replace(self._open, days=days)
                else:
                    self._open = self._new(days)
            self._write(first=True)

    def empty(self) -> None:
        """Forget all sealed keys and the key that opened them. Whether keys are sealed stays as it was.

        Where that cannot be done by a new file, there is none any more. Raises StorageError.
        """
        with self._writing:
            if not self._path.exists():
                return
            try:
                with self._lock:
                    self._open = self._new(self._days())
                self._write(first=True)
            except IofltError as error:
                _log.error("keys of the provider %s are sealed no more: %s", self.name, error)
                self._destroy()
            finally:
                self.close()

    def stop(self) -> None:
        """Forget all sealed keys, and seal no more. Raises StorageError."""
        with self._writing:
            self._destroy()

    def close(self) -> None:
        """Forget what is in memory; the file stays, and is opened again by the next use."""
        with self._lock:
            self._forget()

    def status(self) -> CacheStatus | None:
        """What it is; None while no keys are sealed."""
        with self._lock:
            self.ready()
            if not self._path.exists():
                return None
            if self._open is not None:
                self._drop_expired()
                return CacheStatus(
                    self._open.days, _kind(self._open.seal), len(self._open.keys), self._trouble
                )
            try:
                claims = file.parse(files.read(self._path, MAX_FILE))[0]
            except IofltError:
                return CacheStatus(0, "", 0, self._trouble)
            return CacheStatus(claims.days, _kind(claims.seal), 0, self._trouble)

    # Inside

    def _read(self) -> _Open:
        content, tag = file.parse(files.read(self._path, MAX_FILE))
        if content.provider != self.uuid:
            raise AuthenticationError("of another provider")
        with seal.open_(self.uuid, content.seal) as own:
            with hkdf(own, "cache/mac") as mac_key:
                mac.verify(mac_key, file.signed(content), tag)
            self._own_keys.put(self.uuid, own)
        self._clock.not_before(content.seen)
        self._saved = content.seen
        self._changed = False
        keys = {key.key_id: _Entry(key.fetched, key.blob) for key in content.keys}
        return _Open(content.days, content.seal, keys)

    def _new(self, days: int) -> _Open:
        with Secret.random(32) as own:
            sealed = self._sealer(self.uuid, own)
            self._own_keys.put(self.uuid, own)
        return _Open(days, sealed, {})

    def _write(self, *, first: bool = False) -> None:
        """Under `_writing`. Unless `first` only in place of a file: it goes with its provider."""
        with self._directory.writing():
            there = self._path.exists()
            with self._lock:
                if self._open is None or not (there or first):
                    self._forget()
                    return
                self._drop_expired()
                now = self._clock.now()
                content = Content(
                    provider=self.uuid,
                    days=self._open.days,
                    seen=now,
                    seal=self._open.seal,
                    keys=tuple(
                        SealedKey(key_id, entry.fetched, entry.blob)
                        for key_id, entry in self._open.keys.items()
                    ),
                )
                data = file.signed(content)
                with self._derived("cache/mac") as mac_key:
                    data += mac.tag(mac_key, data)
                self._changed = False
            try:
                if there:
                    files.supersede(self._path, data)
                else:
                    files.create(self._path, data)
            except BaseException:
                self._changed = True
                raise
            self._saved = now
            self._trouble = ""

    def _destroy(self) -> None:
        with self._directory.writing():
            with self._lock:
                self._forget()
            files.destroy(self._path)

    def _forget(self) -> None:
        self._open = self._retry = None
        self._trouble = ""
        self._changed = False
        self._own_keys.drop(self.uuid)

    def _drop_expired(self) -> None:
        if self._open is not None:
            old = self._clock.now() - self._open.days * DAY
            for key_id in [key_id for key_id, entry in self._open.keys.items() if entry.fetched <= old]:
                del self._open.keys[key_id]
                self._changed = True

    def _days(self) -> int:
        """What the file says, or claims. Raises CorruptDataError when it does not parse, StorageError."""
        if self._open is not None:
            return self._open.days
        return file.parse(files.read(self._path, MAX_FILE))[0].days

    def _fail(self, error: IofltError) -> None:
        for_now = isinstance(error, KeyUnavailableError | StorageError)
        told = f"{error.message}; it is left as it is"
        if self._trouble != told:
            _log.warning("the sealed keys of the provider %s: %s", self.name, told)
        self._trouble = told
        self._retry = time.monotonic() + _RETRY_S if for_now else None

    def _may_retry(self) -> bool:
        return self._retry is not None and time.monotonic() >= self._retry

    def _derived(self, label: str) -> Secret:
        own = self._own_keys.get(self.uuid)
        if own is None:
            raise BugError("a cache of sealed keys is open without its key")
        with own:
            return hkdf(own, label)

    def _aad(self, key_id: str) -> bytes:
        return b"\0".join((file.MAGIC.rstrip(b"\n"), self.uuid.encode(), key_id.encode()))


def _kind(sealed: Seal) -> str:
    return str(sealed.__struct_config__.tag)
