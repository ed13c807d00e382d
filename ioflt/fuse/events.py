"""What a mount tells keyd's event log: who opened what of encrypted content, and which names come and go.

Nobody waits for a disk here: events queue, and one task sends them in batches. `room` is asked before
something is done, `tell` after it. So that nothing goes on that nobody logs, `room` refuses once keyd did
not take the last batch, and waits while `MAX_QUEUE` events are not sent yet: unless keyd said that events are
not required; then the oldest are lost, and the log of mounts says so.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Final

import trio

from ioflt.datastore.home import Home
from ioflt.errors import BusyError, IntegrityError, IofltError, StorageError
from ioflt.fuse.nodes import Node
from ioflt.keys import reporting
from ioflt.wire.keyd.replies import EventLogSettings
from ioflt.wire.keyd.requests import Report, ReportedThing
from ioflt.wire.keyd.values import MAX_REPORTS

#: Events that wait to be sent.
MAX_QUEUE: Final = 4_096

#: Seconds in which events come together, after which what was not taken is sent again, and which an unmount
#: gives the rest.
GATHER_S: Final = 0.05
AGAIN_S: Final = 1.0
FLUSH_S: Final = 10.0

#: Seconds for which damage of the same file is not told of again; most files and opens that are remembered.
_DAMAGE_S: Final = 60.0
_MAX_DAMAGED: Final = 256
_MAX_OPENED: Final = 65_536

Send = Callable[[Sequence[Report]], EventLogSettings]

_Change = tuple[str, str | None, str | None]

_log = logging.getLogger("ioflt.mount")


class Events:
    """For one mount of that datastore. `run` has the task; `send` is called in a thread."""

    def __init__(self, datastore_id: str, path: str, send: Send) -> None:
        self._datastore = ReportedThing("datastore", datastore_id, reporting.text(path))
        self._send = send
        self._queue = deque[Report]()
        self._sending = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)
        self._grown = trio.Event()
        self._moved = trio.Event()  # a batch was taken, or not
        self._mountpoint = ""
        self._required = True
        self._refused: IofltError | None = None
        self._opened = OrderedDict[tuple[int, int], None]()
        self._damaged = OrderedDict[str, float]()

    def mounted(self, mountpoint: str, *, allow_other: bool) -> None:
        """The mount begins; `allow_other`: whoever the modes of files admit may enter."""
        self._mountpoint = mountpoint
        changes = [reporting.change("mountpoint", None, mountpoint)]
        if allow_other:
            changes.append(reporting.change("allow_other", None, "true"))
        self._put(Report("mount", self._datastore, changes=tuple(changes)))

    def unmounted(self) -> None:
        """It ends, and reports nothing more."""
        changes = (reporting.change("mountpoint", self._mountpoint, None),)
        self._put(Report("umount", self._datastore, changes=changes))

    async def room(self) -> None:
        """Return when what is done next can be told of. Raises StorageError when it cannot."""
        while self._required:
            if self._refused is not None:
                raise StorageError(f"nothing is changed that is not logged: {self._refused}", errno.EIO)
            if len(self._queue) < MAX_QUEUE:
                return
            await self._moved.wait()

    def is_first(self, node: Node, uid: int) -> bool:
        """Whether this user opens content that is encrypted, and has not opened that file in this mount."""
        return not node.keyless and (node.number, uid) not in self._opened

    def opened(self, node: Node, uid: int) -> None:
        """A first open."""
        self._opened[node.number, uid] = None
        if len(self._opened) > _MAX_OPENED:
            self._opened.popitem(last=False)
        self._tell("file open", node.home, uid, ("file", None, node.shown))

    def created(self, node: Node, uid: int) -> None:
        """A new name: a home, or something in one."""
        if node.is_top:
            self._tell("vm create", node.home, uid, ("name", None, node.name))
        else:
            self._tell("file create", node.home, uid, ("file", None, node.shown))

    def linked(self, parent: Node, name: str, uid: int) -> None:
        """One more name in that directory for something."""
        self._tell("file create", parent.home, uid, ("file", None, _in(parent, name)))

    def removed(self, parent: Node, name: str, uid: int) -> None:
        """A name in that directory is gone."""
        self._tell("file remove", parent.home, uid, ("file", _in(parent, name), None))

    def home_removed(self, vm: ReportedThing, uid: int) -> None:
        """A home is gone; `vm`: what it was `about`."""
        self._put(self._report("vm remove", vm, uid, ("name", vm.shown, None)))

    def renamed(self, node: Node, old: str, uid: int, *, replaces: bool) -> None:
        """It is `node.shown` now, and was `old`; `replaces`: or takes the name of what had that before."""
        new = node.shown
        if node.is_top:
            self._tell("vm rename", node.home, uid, ("name", old.rstrip("/"), new.rstrip("/")))
        elif replaces:
            self._tell("file rename", node.home, uid, ("file", old, new), ("replaced", new, None))
        else:
            self._tell("file rename", node.home, uid, ("file", old, new))

    def about(self, home: Home) -> ReportedThing:
        """A home, or the datastore for what is in none."""
        if home.is_root:
            return self._datastore
        known = home.known()
        record = None if known is None else known.record
        return ReportedThing("vm", "" if record is None else record.home_id, reporting.text(home.name))

    def damaged(self, error: IntegrityError, home: Home | None) -> None:
        """Sectors were refused; `home`: of a file in there. Once in a while of each file."""
        file = error.file or ""
        now = time.monotonic()
        if now < self._damaged.pop(file, 0.0):
            self._damaged[file] = now + _DAMAGE_S
            return
        self._damaged[file] = now + _DAMAGE_S
        if len(self._damaged) > _MAX_DAMAGED:
            self._damaged.popitem(last=False)
        about = self._datastore if home is None else self.about(home)
        around = None if about is self._datastore else self._datastore
        self._put(reporting.damage(error, about, around, file=file))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send what there is, until cancelled."""
        task_status.started()
        while True:
            if not self._queue:
                self._grown = trio.Event()
                await self._grown.wait()
            await trio.sleep(GATHER_S)
            while self._queue:
                if not await self._send_some():
                    await trio.sleep(AGAIN_S)

    async def flush(self) -> None:
        """Send the rest, at the end of the mount."""
        with trio.move_on_after(FLUSH_S):
            while await self._send_some():
                if not self._queue:
                    return
        if self._queue:
            _log.error("%d events are lost: they could not be sent", len(self._queue))

    async def _send_some(self) -> bool:
        """Whether keyd took a batch; one that it did not take is the next one again."""
        async with self._sending:
            batch = [self._queue.popleft() for _ in range(min(MAX_REPORTS, len(self._queue)))]
            if not batch:
                return True
            taken = False
            try:
                settings = await trio.to_thread.run_sync(
                    self._send, batch, limiter=self._limiter, abandon_on_cancel=True
                )
                self._required, self._refused, taken = settings.required, None, True
            except BusyError as error:
                _log.info("events are sent later: %s", error)
            except IofltError as error:
                _log.error("events are not logged: %s", error)
                self._refused = error
            finally:
                if not taken:
                    self._queue.extendleft(reversed(batch))
                self._moved.set()
                self._moved = trio.Event()
            return taken

    def _tell(self, operation: str, home: Home, uid: int, *changes: _Change) -> None:
        self._put(self._report(operation, self.about(home), uid, *changes))

    def _report(self, operation: str, about: ReportedThing, uid: int, *changes: _Change) -> Report:
        around = None if about is self._datastore else self._datastore
        told = tuple(reporting.change(*each) for each in changes)
        return Report(operation, about, around, told, served_uid=uid)

    def _put(self, report: Report) -> None:
        self._queue.append(report)
        if not self._required and len(self._queue) > MAX_QUEUE:
            lost = self._queue.popleft()
            _log.error("an event is lost, %s", lost.operation)
        self._grown.set()


def _in(parent: Node, name: str) -> str:
    return os.path.join(parent.shown, name)
