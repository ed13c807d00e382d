"""The block nodes of a running QEMU: what it reads and writes, as far as its monitor tells."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from ioflt.backup.qmp import Monitor, Refused
from ioflt.errors import MalformedError, PeerError
from ioflt.format import strict_json

#: Drivers of nodes whose file is named by a path.
FILES: Final = frozenset(("file", "host_device"))

#: Drivers of nodes that only pass on to others, by themselves in the list.
_ABOVE: Final = frozenset(
    (
        *(
            "raw",
            "qcow2",
            "qcow",
            "qed",
            "vmdk",
            "vdi",
            "vhdx",
            "vpc",
            "parallels",
            "luks",
            "bochs",
            "cloop",
            "dmg",
        ),
        *("throttle", "copy-on-read", "copy-before-write", "backup-top", "compress", "preallocate"),
        *("blkdebug", "blkverify", "blklogwrites", "blkreplay", "quorum", "replication", "snapshot-access"),
        *("mirror_top", "commit_top"),
    )
)

_MAX_NODES: Final = 10_000

#: Seconds between two attempts to remove a node.
_PAUSE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Node:
    """One node. `file`: the absolute path, where it has one; else what QEMU calls it."""

    name: str
    driver: str
    file: str
    read_only: bool
    size: int

    @property
    def is_storage(self) -> bool:
        """Whether it is at the bottom: bytes go from it to something that is no node."""
        return self.driver not in _ABOVE


def nodes(monitor: Monitor) -> list[Node]:
    """All named nodes. Raises PeerError."""
    found = monitor.ask("query-named-block-nodes", {"flat": True})
    if not isinstance(found, list) or len(found) > _MAX_NODES:
        raise nonsense(monitor, "its block nodes")
    directory = _directory(monitor)
    return [_node(monitor, each, directory) for each in found]


def remove(monitor: Monitor, name: str, until: float) -> None:
    """Remove a node, if it is there; what used it may take until then to go. Raises PeerError."""
    while any(node.name == name for node in nodes(monitor)):
        try:
            monitor.ask("blockdev-del", {"node-name": name})
        except Refused as error:
            if "in use" not in error.description or monotonic() >= until:
                raise
            monitor.wait_for(lambda event: event.name == "DEVICE_DELETED", _PAUSE_S)


@dataclass(frozen=True, slots=True)
class Drive:
    """What a device of the guest is over: `node`, of that `driver`; `file`: as of a Node."""

    node: str
    driver: str
    file: str
    size: int


def drives(monitor: Monitor) -> list[Drive]:
    """Those that have a medium. Raises PeerError."""
    found = monitor.ask("query-block")
    if not isinstance(found, list) or len(found) > _MAX_NODES:
        raise nonsense(monitor, "its drives")
    media = [each["inserted"] for each in found if isinstance(each, dict) and "inserted" in each]
    directory = _directory(monitor)
    return [_drive(_node(monitor, each, directory), directory) for each in media]


def _drive(node: Node, directory: str) -> Drive:
    return Drive(node.name, node.driver, _path(node.file, directory), node.size)


def nonsense(monitor: Monitor, what: str) -> PeerError:
    """The error for an answer that has not the form that QEMU gives it."""
    return PeerError(f"QEMU says of {what} what makes no sense", file=monitor.path)


def _node(monitor: Monitor, said: object, directory: str) -> Node:
    match said:
        case {
            "node-name": str(name),
            "drv": str(driver),
            "file": str(file),
            "ro": bool(read_only),
            "image": {"virtual-size": int(size)},
        }:
            path = _path(file, directory) if driver in FILES else file
            return Node(name, driver, path, read_only, size)
    raise nonsense(monitor, "its block nodes")


def _path(file: str, directory: str) -> str:
    """The path in what QEMU calls a file: as it was given, or with all options as JSON."""
    if file.startswith("json:"):
        try:
            options: Mapping[str, Any] = strict_json.parse_object(file[5:].encode())
        except (MalformedError, UnicodeEncodeError):
            return file
        file = str(options.get("filename", file))
    return os.path.join(directory, file.removeprefix("file:"))


def _directory(monitor: Monitor) -> str:
    """Where relative paths of that QEMU begin; where that cannot be told, at a place that is not there."""
    try:
        return os.readlink(f"/proc/{monitor.peer.pid}/cwd")
    except OSError:
        return "/nonexistent"
