"""What a process tries that an attacker has taken over, and what came of it.

Code of the tests in the place of a parser calls `try_all`: the product has no door for it.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CLONE_NEWNS = 0x20000
_libc = ctypes.CDLL(None, use_errno=True)


def plan(own: Path, asked: list[tuple[str, object]]) -> None:
    """Have the process whose directory is `own` try these doors when it parses the next time."""
    (own / "exploit.json").write_text(json.dumps(asked))


def found(own: Path, asked: list[tuple[str, object]]) -> dict[str, str]:
    """What each answered: "open", or the error."""
    answers = json.loads((own / "found.json").read_text())
    return {f"{door} {argument}": answers[number] for number, (door, argument) in enumerate(asked)}


def try_all(own: Path) -> None:
    """Once, if there is a plan."""
    place = own / "exploit.json"
    if not place.exists() or place.with_name("found.json").exists():
        return
    answers = []
    for door, argument in json.loads(place.read_text()):
        try:
            _DOORS[door](own, argument)
            answers.append("open")
        except (OSError, subprocess.CalledProcessError) as error:
            answers.append(f"{type(error).__name__}: {error}")
    draft = place.with_name("found.new")
    draft.write_text(json.dumps(answers))
    draft.rename(place.with_name("found.json"))


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def _read_through_link(own: Path, target: str) -> None:
    link = own / "link"
    link.symlink_to(target)
    try:
        os.close(os.open(link, os.O_RDONLY))
    finally:
        link.unlink()


def _connect(_own: Path, name: str) -> None:
    """To a path, or after a @ an abstract name."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(name.replace("@", "\0", 1))


def _make_device(_own: Path, directory: str) -> None:
    place = Path(directory, "device")
    os.mknod(place, 0o600 | stat.S_IFBLK, os.makedev(7, 0))  # a loop device
    place.unlink()


def _serve(_own: Path, family: str) -> None:
    with socket.socket(socket.AddressFamily[family]) as sock:
        sock.bind(("127.0.0.1", 0) if family == "AF_INET" else "")
        sock.listen()


_DOORS: dict[str, Callable[[Path, Any], object]] = {
    "read": lambda _, path: os.close(os.open(path, os.O_RDONLY)),
    "read through a link of its own": _read_through_link,
    "write": lambda _, path: os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)),
    "write by a program": lambda _, path: subprocess.run(["/bin/sh", "-c", ': > "$0"', path], check=True),
    "replace": lambda own, path: os.replace(own / "exploit.json", path),
    "remove": lambda _, path: os.unlink(path),
    "make a device in": _make_device,
    "list": lambda _, path: os.listdir(path),
    "connect": _connect,
    "open a TCP socket": lambda *_: socket.socket(socket.AF_INET).close(),
    "make a socket pair": lambda *_: [end.close() for end in socket.socketpair()],
    "serve": _serve,
    "run": lambda _, path: subprocess.run([path], check=True),
    "send a signal": lambda _, pid: os.kill(pid, 0),
    "mount": lambda _, path: _call("mount", b"none", os.fsencode(path), b"tmpfs", 0, None),
    "have mounts of its own": lambda *_: _call("unshare", _CLONE_NEWNS),
}
