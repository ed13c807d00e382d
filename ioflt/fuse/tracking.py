"""Changed block tracking of files that are open for writing in this mount.

Whoever asks holds the range locks of all of the file: what is being written just now is marked already, and
would count as of before the change id that is taken.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import islice
from typing import TypeVar

import trio

from ioflt.datastore import cbt, cbtfiles, policies
from ioflt.datastore.container import Container
from ioflt.datastore.home import Home
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.plain import PlainFile
from ioflt.errors import BusyError, IofltError, NotFoundError, UsageError
from ioflt.format.cbt.changeid import ChangeId
from ioflt.fuse.nodes import Node
from ioflt.fuse.ranges import END
from ioflt.policy.model import CBT
from ioflt.wire.control import messages

_Result = TypeVar("_Result")

_log = logging.getLogger("ioflt.mount")


def concerns(node: Node, file: OpenFile) -> bool:
    """Whether the changes of a file, which has its first writer here, are tracked or could have to be."""
    if not isinstance(file, (Container, PlainFile)) or node.home.is_root:
        return False
    return cbtfiles.exists(node.home.fd, file.sidecar_name) or _is_new_disk(node, file)


def begin(node: Node, file: OpenFile) -> None:
    """Have it mark its changes if they are tracked, or are to be because it is a new disk. Raises OSError."""
    if not isinstance(file, (Container, PlainFile)) or cbtfiles.attach(node.home.fd, file):
        return
    try:
        if _is_new_disk(node, file) and _is_wanted(node.home):
            cbt.switch(node.home, file, on=True)
    except IofltError as error:  # `policy check` names it, too
        _log.warning("%s: its changed blocks are not tracked: %s", node.shown, error)


def _is_new_disk(node: Node, file: OpenFile) -> bool:
    return file.length == 0 and cbtfiles.is_disk(node.name)


def _is_wanted(home: Home) -> bool:
    """Whether the VM's policy tracks changed blocks."""
    record = home.standing().record
    return record is not None and policies.of_record(home.volume.keys, record.policy, record.state).has(CBT)


async def switch(node: Node, *, on: bool) -> bool:
    """Begin or end it; False when it was so already."""
    return await _on_file(node, lambda file: cbt.switch(node.home, file, on=on))


async def take(node: Node, at_least: int) -> ChangeId:
    """The change id of this moment, of a sequence no lower than that."""

    def take(file: Container | PlainFile) -> ChangeId:
        if file.changes is None:
            raise NotFoundError("its changed blocks are not tracked")
        return file.changes.take(at_least)

    return await _on_file(node, take)


async def areas(node: Node, since: int | None, start: int) -> messages.Areas:
    """What changed after the id of that sequence, or, None, is allocated, from `start` on."""

    def look(file: Container | PlainFile) -> messages.Areas:
        if file.changes is None:
            raise NotFoundError("its changed blocks are not tracked")
        found = tuple(islice(cbt.areas_of(file, since, start), messages.MAX_AREAS))
        end = sum(found[-1]) if len(found) == messages.MAX_AREAS else file.length
        return messages.Areas(file.changes.uuid, file.length, found, end)

    return await _on_file(node, look)


async def _on_file(node: Node, call: Callable[[Container | PlainFile], _Result]) -> _Result:
    async with node.opening, node.ranges.hold(0, END, exclusive=True):
        file = node.file
        if node.writers == 0:
            raise BusyError("open for writing in another mount", file=node.shown)
        if not isinstance(file, (Container, PlainFile)):
            raise UsageError("a VMX is no disk", file=node.shown)
        return await trio.to_thread.run_sync(call, file)
