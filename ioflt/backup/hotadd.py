"""Transport `hotadd`: a disk plugged read-only into a running QEMU, and out of it again.

What is plugged in has a name of ours in that QEMU, and while its process lives the lock of that name is held:
so that whoever comes next finds what a killed one left, and nothing that is in use.
"""

from __future__ import annotations

import os
import secrets
import select
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, Final, NoReturn

from ioflt.backup import blocknodes, buses, signals
from ioflt.backup.blocknodes import nodes, nonsense
from ioflt.backup.buses import Bus
from ioflt.backup.export import Exported
from ioflt.backup.qemunames import held
from ioflt.backup.qmp import Monitor, Refused
from ioflt.datastore.volume import Volume
from ioflt.errors import IofltError, NotFoundError, PeerError, UsageError
from ioflt.wire.qmp.messages import Event

#: How the names of nodes and devices begin that are ours.
PREFIX: Final = "ioflt-hotadd-"

#: Seconds that a guest may take to let go of a disk. On PCIe 5 of them are for a button that nobody presses.
RELEASE_S: Final = 60.0

#: Seconds after which it is asked again.
_AGAIN_S: Final = 10.0


class HotAdded:
    """A disk in a VM. `serial`: by which the guest tells it from others."""

    def __init__(self, monitor: Monitor, name: str, bus: Bus) -> None:
        self._monitor = monitor
        self._name = name
        self.bus = bus
        self.serial = serial_of(name)

    def wait(self, *descriptors: int) -> int:
        """The first of the descriptors that can be read.

        Raises PeerError when the VM ends, or somebody else takes the disk out.
        """
        while True:
            readable = select.select([self._monitor.socket.fileno(), *descriptors], [], [])[0]
            for descriptor in descriptors:
                if descriptor in readable:
                    return descriptor
            self._monitor.take_in(0)
            if self._monitor.wait_for(lambda event: _is_deleted(event, self._name), 0):
                raise PeerError("the disk was taken out of the VM by somebody else", file=self._monitor.path)


def serial_of(name: str) -> str:
    """The disk's serial number, at most 20 characters as virtio has it."""
    return f"ioflt-{name.removeprefix(PREFIX)}"


@contextmanager
def hot_added(monitor: Monitor, export: Exported, bus: str | None = None) -> Iterator[HotAdded]:
    """The disk is in the VM while the block runs, and out of it afterwards, whatever happens.

    `export`: by a unix socket; `bus`: by QEMU's name, else the first that takes it. Raises NotFoundError for
    no such bus, Refused, PeerError.
    """
    places = buses.find(monitor, bus)
    name = PREFIX + secrets.token_hex(4)
    with held(name):
        try:
            yield _add(monitor, name, export, places)
        except BaseException as error:
            try:
                _remove_surely(monitor, name)
            except IofltError as left:
                error.add_note(_left_behind(left))
            raise
        try:
            _remove_surely(monitor, name)
        except IofltError as left:
            left.add_note(_left_behind(left))
            raise


def remove_leftovers(monitor: Monitor) -> list[str]:
    """Take out what runs that were killed left in the VM. The serial numbers. Raises PeerError."""
    names = _devices(monitor) | {node.name for node in nodes(monitor) if node.name.startswith(PREFIX)}
    removed = []
    for name in sorted(names):
        with suppress(BlockingIOError), held(name):  # else its process lives
            _remove(monitor, name)
            removed.append(serial_of(name))
    return removed


def refuse(volume: Volume, vm: str, _disk: str) -> NoReturn:
    """In place of opening a disk: raises UsageError."""
    raise UsageError(
        "hotadd gives the disk to a proxy VM, where a backup agent reads it; nothing of it comes back here",
        file=os.path.join(volume.path, vm),
    )


def _add(monitor: Monitor, name: str, export: Exported, places: list[Bus]) -> HotAdded:
    server = {"type": "unix", "path": export.socket}
    node = {"driver": "nbd", "node-name": name, "read-only": True, "server": server, "export": export.export}
    monitor.ask("blockdev-add", node)
    for place in places:
        device: dict[str, Any] = {"driver": place.model, "id": name, "drive": name, "bus": place.name}
        try:
            monitor.ask("device_add", {**device, "serial": serial_of(name)})
        except Refused:
            if place is places[-1]:
                raise
        else:
            return HotAdded(monitor, name, place)
    raise NotFoundError("this VM has no bus for a disk", file=monitor.path)


def _remove_surely(monitor: Monitor, name: str) -> None:
    """Remove it, by another connection where this one is of no more use."""
    with signals.held_back():
        if not monitor.broken:
            try:
                return _remove(monitor, name)
            except PeerError:
                if not monitor.broken:
                    raise
        with Monitor(monitor.path) as another:
            return _remove(another, name)


def _remove(monitor: Monitor, name: str) -> None:
    """Take the device out, and then the node; what is not there is no error. Raises PeerError."""
    until = monotonic() + RELEASE_S
    again = 0.0
    while name in _devices(monitor):
        now = monotonic()
        if now >= until:
            raise PeerError(
                f"the guest does not let go of the disk within {RELEASE_S:g} s", file=monitor.path
            )
        if now >= again:
            again = now + _AGAIN_S
            with suppress(Refused):  # it is under way, or was done just now
                monitor.ask("device_del", {"id": name})
        monitor.wait_for(lambda event: _is_deleted(event, name), 1.0)
    blocknodes.remove(monitor, name, until)


def _devices(monitor: Monitor) -> set[str]:
    """Names of devices of ours."""
    found = monitor.ask("qom-list", {"path": "/machine/peripheral"})
    if not isinstance(found, list):
        raise nonsense(monitor, "its devices")
    names = {str(entry.get("name")) for entry in found if isinstance(entry, dict)}
    return {name for name in names if name.startswith(PREFIX)}


def _is_deleted(event: Event, name: str) -> bool:
    return event.name == "DEVICE_DELETED" and event.data.get("device") == name


def _left_behind(why: IofltError) -> str:
    told = "the disk may still be in the VM, though nothing can be read from it any more"
    return f"{told}: {why.message}"
