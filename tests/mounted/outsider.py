"""Another user at the doors of keyd and of a mount, run as that user: prints, as JSON, what answered "open".

outsider.py KEYD_PID MOUNT_PID RUN_DIRECTORY STATE_DIRECTORY CONTROL_SOCKET
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

_PTRACE_ATTACH = 16
_libc = ctypes.CDLL(None, use_errno=True)


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def _read(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)


def _read_memory(pid: int) -> None:
    buffer = ctypes.create_string_buffer(8)
    here, there = _Vector(ctypes.addressof(buffer), 8), _Vector(0x400000, 8)
    _call("process_vm_readv", pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)


def _take_descriptor(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        _call("syscall", 438, pidfd, 0, 0)  # pidfd_getfd
    finally:
        os.close(pidfd)


def _connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)


def _of_process(pid: int) -> Iterator[tuple[str, Callable[[], object]]]:
    for name in ("mem", "maps", "environ", "syscall", "stack", "pagemap", "auxv"):
        yield f"/proc/{name}", lambda name=name: _read(f"/proc/{pid}/{name}")
    for name in ("fd", "map_files"):
        yield f"/proc/{name}/", lambda name=name: os.listdir(f"/proc/{pid}/{name}")
    for name in ("root", "cwd", "exe"):
        yield f"/proc/{name}", lambda name=name: os.readlink(f"/proc/{pid}/{name}")
    yield "process_vm_readv", lambda: _read_memory(pid)
    yield "pidfd_getfd", lambda: _take_descriptor(pid)
    yield "PTRACE_ATTACH", lambda: _call("ptrace", _PTRACE_ATTACH, pid, 0, 0)
    yield "kill", lambda: os.kill(pid, signal.SIGABRT)
    yield (
        "core limit",
        lambda: _call("prlimit", pid, 4, ctypes.byref((ctypes.c_ulong * 2)(1 << 40, 1 << 40)), 0),
    )


def _open_doors(doors: Iterator[tuple[str, Callable[[], object]]]) -> list[str]:
    found = []
    for name, door in doors:
        try:
            door()
        except OSError:
            continue
        found.append(name)
    return found


def main() -> None:
    keyd, mount = int(sys.argv[1]), int(sys.argv[2])
    run, state, control = sys.argv[3:]

    def files() -> Iterator[tuple[str, Callable[[], object]]]:
        yield "list the state", lambda: os.listdir(state)
        yield "list the providers", lambda: os.listdir(f"{state}/providers")
        yield "list the mounts' sockets", lambda: os.listdir(f"{run}/mounts")
        yield "take the place of keyd's socket", lambda: os.unlink(f"{run}/keyd.sock")
        yield "make a file beside keyd's socket", lambda: Path(f"{run}/x").write_text("")
        yield "connect to the mount's socket", lambda: _connect(control)

    found = {
        "keyd": _open_doors(_of_process(keyd)),
        "mount": _open_doors(_of_process(mount)),
        "files": _open_doors(files()),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
