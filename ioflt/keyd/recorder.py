"""Enhanced logging in keyd: its event log, those of folders, who else hears of events, and what if one cannot
be written.

`record` returns once an event is on disk, `record_soon` once it is written, to be on disk `SOON_S` later with
all others of that time. Both raise StorageError when it is not, unless the administrator said that events are
not `required`: so what is described by an event that cannot be written does not happen.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

import msgspec

from ioflt.audit import reader, sinks
from ioflt.audit.chain import Head
from ioflt.audit.event import Actor, Change, Event, Outcome, Thing, Value, added, fitted, to_json
from ioflt.audit.log import EventLog, Torn
from ioflt.errors import IofltError, MalformedError, NotFoundError, StorageError
from ioflt.keyd import accounts, users
from ioflt.keys import files
from ioflt.paths import Paths
from ioflt.types import KeyRef
from ioflt.wire.keyd.values import MAX_EVENT_PAGE

#: Seconds after which who follows the log asks again, so that nobody who is gone is waited for.
FOLLOW_S: Final = 30.0

_MAX_FILE: Final = 4096

_log = logging.getLogger(__name__)

#: The privileges that were asked for, and had, by whoever asks in this thread; it has a copy of its own.
_used: ContextVar[tuple[str, ...]] = ContextVar("used", default=())


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`events.json`: whether what cannot be logged may not happen, and who else is told of events."""

    format: Literal[1] = 1
    required: bool = True
    sink: sinks.SinkKind = "none"


class Recorder:
    """The event log of this keyd. Safe for calls from several threads."""

    def __init__(self, where: Paths) -> None:
        """Raises StorageError, MalformedError; BusyError when another keyd writes the log."""
        self._file = where.state / "events.json"
        self.settings = _read(self._file)
        self._sink = sinks.make(self.settings.sink)
        self._where = where
        self._hear: Callable[[Event], Mapping[str, Event]] = lambda _: {}
        self._folders: dict[str, EventLog] = {}
        self._opening = threading.Lock()
        self._log = EventLog(where.events)
        if self._log.torn is not None:
            self.record(_of_torn(self._log.torn))

    @property
    def head(self) -> Head:
        """The log's last line."""
        return self._log.head

    def tell_folders(self, hear: Callable[[Event], Mapping[str, Event]]) -> None:
        """From now on what `hear` makes of an event goes into the logs of these folders as well."""
        self._hear = hear

    def begin_folder(self, name: str) -> None:
        """A folder of that name is made: the log of an earlier one is not its own, and is set aside.

        Raises StorageError.
        """
        path = self._where.folder_events(name)
        with self._opening:
            if not path.exists():
                return
            log = self._folders.pop(name, None) or _opened(path)
            log.close()
            aside = self._where.events / f"former-{name}-{log.head.hash[:16]}"
            try:
                path.rename(aside)
                files.sync_directory(self._where.events)
            except OSError as error:
                raise StorageError(
                    "cannot set aside the event log of a former folder", error.errno or 0, file=path
                ) from error

    def page(self, file: int, offset: int, *, wait: bool = False, folder: str | None = None) -> reader.Page:
        """A piece of the log, or of a folder's, at most MAX_EVENT_PAGE bytes. Raises StorageError.

        `wait`: where no whole line is there yet, and no later file, it is read again once one may be, or
        after `FOLLOW_S`. Raises NotFoundError for a folder without a log.
        """
        directory = self._where.events if folder is None else reader.of_folder(self._where, folder)
        log = self._log if folder is None else self._folder_log(folder)
        before = log.head
        found = reader.page(directory, file, offset, MAX_EVENT_PAGE)
        if wait and b"\n" not in found.data and file + 1 >= found.files:
            log.wait(before.sequence, FOLLOW_S)
            found = reader.page(directory, file, offset, MAX_EVENT_PAGE)
        return found

    def record(self, event: Event) -> None:
        """Return when the event is on disk. Raises StorageError."""
        self._record(event, at_once=True)

    def record_soon(self, event: Event) -> None:
        """Return when the event is written; it is on disk soon. For what comes often. Raises StorageError."""
        self._record(event, at_once=False)

    def record_if_possible(self, event: Event) -> None:
        """`record` of what must happen all the same, such as a lock; keyd's log says when it failed."""
        try:
            self.record(event)
        except StorageError as error:
            _log.error("an event is lost, %s of %s: %s", event.operation, event.by.who, error)

    @contextmanager
    def around(self, event: Event) -> Iterator[None]:
        """Record what the block does before it does it, and once more if it fails. Raises StorageError."""
        self.record(event)
        try:
            yield
        except IofltError as error:
            self.failed(event, error)
            raise

    def failed(self, event: Event, error: IofltError) -> None:
        """What was recorded as done was not done after all, for that reason."""
        self.record_if_possible(_failed(event, error))

    def change(self, *, required: bool | None, sink: sinks.SinkKind | None) -> Settings:
        """Change what is not None of the settings. Returns what they are then. Raises StorageError."""
        before = self.settings
        after = Settings(
            required=before.required if required is None else required,
            sink=before.sink if sink is None else sink,
        )
        if after != before:
            names = [name for name in ("required", "sink") if getattr(before, name) != getattr(after, name)]
            changes = [
                Change("modified", f"events.{name}", getattr(before, name), getattr(after, name))
                for name in names
            ]
            with self.around(event("events set", changes=changes)):
                files.replace(self._file, msgspec.json.encode(after))
                old, self._sink = self._sink, sinks.make(after.sink)
                old.close()
                self.settings = after
        return after

    def close(self) -> None:
        """Get everything to disk, at the end of the process."""
        self._sink.close()
        for log in (*self._folders.values(), self._log):
            try:
                log.close()
            except StorageError as error:
                _log.error("at the end: %s", error)

    def _record(self, event: Event, *, at_once: bool) -> None:
        """In the logs of folders first: the log of all has what happened, even where one of these fails."""
        event = fitted(event)
        written: list[tuple[EventLog, Event]] = []
        try:
            for name, told in self._hear(event).items():
                with self._unless_required(event):
                    log = self._folder_log(name)
                    _write(log, told, at_once=at_once)
                    written.append((log, told))
            with self._unless_required(event):
                self._sink.tell(event, _write(self._log, event, at_once=at_once))
        except StorageError as error:  # what they have heard of does not happen
            for log, told in written if event.outcome == "done" else ():
                with suppress(StorageError):
                    _write(log, _failed(told, error), at_once=at_once)
            raise

    @contextmanager
    def _unless_required(self, event: Event) -> Iterator[None]:
        try:
            yield
        except StorageError as error:
            if self.settings.required:
                raise
            _log.error("an event is lost, %s of %s: %s", event.operation, event.by.who, error)

    def _folder_log(self, name: str) -> EventLog:
        """The log of that folder, made where there is none. Raises StorageError."""
        with self._opening:
            if name not in self._folders:
                path = self._where.folder_events(name)
                try:
                    path.mkdir(mode=0o700, exist_ok=True)
                    files.sync_directory(self._where.events)
                except OSError as error:
                    raise StorageError(
                        "cannot make the event log of a folder", error.errno or 0, file=path
                    ) from error
                self._folders[name] = _opened(path)
            return self._folders[name]


def event(
    operation: str,
    thing: Thing | None = None,
    *,
    changes: Sequence[Change] = (),
    outcome: Outcome = "done",
    reason: str | None = None,
    privilege: str | None = None,
    datastore: Thing | None = None,
) -> Event:
    """An event of now, by whoever asks keyd now; by keyd itself where nobody does.

    `privilege`: which one is lacking, or was used, where that is not what was `used` for this request.
    """
    return Event(
        _now(),
        actor(),
        operation,
        thing,
        datastore,
        tuple(changes),
        privilege or ", ".join(_used.get()) or None,
        outcome,
        reason,
    )


def used(privilege: str) -> None:
    """Whoever asks now has that privilege, and needs it for what he asks."""
    before = _used.get()
    if privilege not in before:
        _used.set((*before, privilege))


def actor() -> Actor:
    """Whoever asks keyd now."""
    user = users.asking()
    if user is None:
        return Actor("keyd", os.geteuid(), os.getpid())
    return Actor(_name(user.uid), user.uid, user.pid)


def key_thing(key: KeyRef) -> Thing:
    """A KEK as the object of an event."""
    return Thing("key", str(key), str(key))


def provider_thing(name: str) -> Thing:
    """A key provider as the object of an event."""
    return Thing("provider", name, name)


@lru_cache(256)
def _name(uid: int) -> str:
    return str(accounts.user(uid))


def _now() -> datetime:
    return datetime.now(UTC)


def _failed(event: Event, error: IofltError) -> Event:
    return fitted(msgspec.structs.replace(event, time=_now(), outcome="failed", reason=str(error)))


def _write(log: EventLog, event: Event, *, at_once: bool) -> Head:
    """The line that it is. Raises StorageError."""
    head = log.append(to_json(event))
    if at_once:
        log.sync(head.sequence)
    return head


def _opened(directory: Path) -> EventLog:
    """A folder's log, which tells of what was no whole line at its end. Raises StorageError, BusyError."""
    log = EventLog(directory)
    if log.torn is not None:
        _write(log, fitted(_of_torn(log.torn)), at_once=True)
    return log


def _of_torn(torn: Torn) -> Event:
    digest = hashlib.sha256(torn.data).hexdigest()
    about: dict[str, Value] = {
        "file": torn.file.name,
        "bytes": len(torn.data),
        "lines": torn.data.count(b"\n"),
        "sha256": digest,
    }
    return event(
        reader.REPAIR,
        changes=[added("events.setAside", about)],
        reason="keyd or the host ended while it wrote; what was no whole line was set aside",
    )


def _read(path: Path) -> Settings:
    try:
        return msgspec.json.decode(files.read(path, _MAX_FILE), type=Settings)
    except NotFoundError:
        return Settings()
    except (msgspec.MsgspecError, ValueError) as error:
        raise MalformedError("does not say how events are logged", file=path) from error
