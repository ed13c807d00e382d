"""Where a running QEMU takes another disk: buses on which devices come and go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ioflt.backup.blocknodes import nonsense
from ioflt.backup.qmp import Monitor
from ioflt.errors import NotFoundError

#: By the class of a bus, the model of the disk that goes there.
_MODELS: Final = {"SCSI": "scsi-hd", "PCI": "virtio-blk-pci", "PCIE": "virtio-blk-pci"}

#: Owners of SCSI buses that tell the guest of a new disk; on others it would have to look by itself.
_TELLING: Final = frozenset(("virtio-scsi-device", "pvscsi"))

#: Deepest place of a bus below `/machine`, and most objects that are looked at.
_MAX_DEPTH: Final = 8
_MAX_OBJECTS: Final = 20_000

#: Objects below which there is no bus, but there may be thousands of them.
_LEAVES: Final = ("memory-region", "irq", "container", "clock", "ptimer")


@dataclass(frozen=True, slots=True)
class Bus:
    """A bus by its name in QEMU. `model`: of the disk that fits."""

    name: str
    model: str


@dataclass(frozen=True, slots=True)
class _Found:
    name: str
    kind: str
    path: str
    owner: str


def find(monitor: Monitor, name: str | None = None) -> list[Bus]:
    """Those that take a disk while the VM runs, SCSI first; only that one where a name is given.

    Raises NotFoundError, PeerError.
    """
    found = [bus for bus in _buses(monitor) if bus.kind in _MODELS]
    if name is not None:
        named = [bus for bus in found if bus.name == name]
        if not named:
            names = ", ".join(sorted({bus.name for bus in found})) or "none"
            raise NotFoundError(f"this VM has no bus {name!r} for disks; it has: {names}", file=monitor.path)
        return [Bus(name, _MODELS[named[0].kind])]
    # device_add takes a bus by its name: of two that share one it would take either
    alone = Counter(bus.name for bus in found)
    usable = [bus for bus in found if alone[bus.name] == 1 and _takes_more(monitor, bus)]
    usable.sort(key=lambda bus: (bus.kind != "SCSI", bus.owner != "virtio-scsi-device", bus.name))
    if not usable:
        raise NotFoundError(
            "this VM has no bus on which a disk can be added while it runs", file=monitor.path
        )
    return [Bus(bus.name, _MODELS[bus.kind]) for bus in usable]


def _buses(monitor: Monitor) -> list[_Found]:
    """All buses of the machine, wherever they are."""
    left = _MAX_OBJECTS
    found = []
    ahead = [("/machine", "", 0)]
    while ahead:
        path, owner, depth = ahead.pop()
        for name, kind in _children(monitor, path):
            left -= 1
            if left == 0:
                raise nonsense(monitor, "its devices")
            below = f"{path}/{name}"
            if kind in _MODELS:
                found.append(_Found(name, kind, below, owner))
            elif depth < _MAX_DEPTH and (kind not in _LEAVES or depth == 0):
                ahead.append((below, kind, depth + 1))
    return found


def _children(monitor: Monitor, path: str) -> Iterator[tuple[str, str]]:
    """Name and type of what is below an object."""
    for entry in _list(monitor, path):
        match entry:
            case {"name": str(name), "type": str(kind)}:
                if kind.startswith("child<"):
                    yield name, kind.removeprefix("child<").removesuffix(">")
            case _:
                raise nonsense(monitor, "its devices")


def _takes_more(monitor: Monitor, bus: _Found) -> bool:
    """Whether devices come and go on it, and the guest is told; below a PCIe port there is room for one."""
    if bus.kind == "SCSI" and bus.owner not in _TELLING:
        return False
    entries = _list(monitor, bus.path)
    names = [entry.get("name", "") for entry in entries if isinstance(entry, dict)]
    if "hotplug-handler" not in names:
        return False
    if bus.kind == "PCIE" and any(str(name).startswith("child[") for name in names):
        return False
    return bool(monitor.ask("qom-get", {"path": bus.path, "property": "hotplug-handler"}))


def _list(monitor: Monitor, path: str) -> list[Any]:
    found = monitor.ask("qom-list", {"path": path})
    if not isinstance(found, list):
        raise nonsense(monitor, "its devices")
    return found
