"""The bed's key server: PyKMIP, a process that goes on when the command that started it ends.

How it is of no use, and which error that makes, is its mode: one server at a time has the bed's port.
"""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import msgspec

from ioflt.errors import NotFoundError
from ioflt.testing.pykmip import HOST, Authority, PyKmip, free_port
from ioflt.testing.testbed.process import Process

PROVIDER: Final = "corp"

#: Days for which certificates of the bed are valid: ioflt warns of those that end within 30.
DAYS: Final = 365


class Mode(StrEnum):
    """What answers at the server's port."""

    NORMAL = "normal"
    DOWN = "down"  # nobody
    EMPTY = "empty"  # a server that has no keys
    IMPOSTOR = "impostor"  # one whose certificate another authority signed


class Server(msgspec.Struct, frozen=True):
    """Where it is, what it is now; `starts` of the bed's server so far."""

    port: int
    mode: Mode
    starts: int
    process: Process | None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


def make(directory: Path) -> tuple[Server, Authority]:
    """A new server that runs, and who signs for it, in a directory that is made."""
    if find_spec("kmip") is None:
        raise NotFoundError("PyKMIP is not installed: pip install ioflt[testbed]")
    authority = Authority(directory / Mode.NORMAL, "test bed")
    impostor = Authority(directory / Mode.IMPOSTOR, "impostor")
    for one in (authority, impostor):
        one.issue("kms", hosts=(HOST,), days=DAYS)
    return start(directory, Server(free_port(), Mode.DOWN, 0, None), Mode.NORMAL), authority


def start(directory: Path, server: Server, mode: Mode) -> Server:
    """The same server in that mode."""
    if server.process is not None:
        server.process.kill()
    if mode is Mode.DOWN:
        return Server(server.port, mode, server.starts, None)
    who = directory / (Mode.IMPOSTOR if mode is Mode.IMPOSTOR else Mode.NORMAL)
    keys = directory / (Mode.EMPTY if mode is Mode.EMPTY else "keys")
    started = PyKmip.start(
        keys,
        directory / Mode.NORMAL / "ca.pem",
        (who / "kms.crt", who / "kms.key"),
        str(server.starts),
        server.port,
    )
    started.process.returncode = 0  # it lives on; nobody waits for it
    return Server(server.port, mode, server.starts + 1, Process.of(started.process.pid))
