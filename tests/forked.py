"""`ioflt` commands without their start: each is a fork of a process that has loaded the program already.

A fresh interpreter spends 0.2 to 0.5 s of a processor on imports before a command begins, more than most
commands then take, and `make test` runs some thousands of them: a script of 70 took 54 s of a processor, and
takes 14 s so. A fork has what a process of its own would have: arguments, environment, directory, umask,
limits, streams, user and groups. What it does not show is how the program starts: tests of that, and those
that trace, kill or confine a command, start it as users do.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import marshal
import os
import pkgutil
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

#: What is at the place of the command: hands all that it is given to the server, and ends as the fork does.
#: `-IS`: without `site` it starts in 10 ms.
_COMMAND = """#!{python} -IS
import marshal, os, resource, _socket, sys

server = _socket.socket(_socket.AF_UNIX)
server.connect({address!r})
here = os.open(".", os.O_PATH)
mask = os.umask(0)
os.umask(mask)
limits = [resource.getrlimit(number) for number in range({limits})]
given = (sys.argv[1:], dict(os.environb), mask, limits, os.getgroups(), os.getresgid(), os.getresuid())
passed = b"".join(fd.to_bytes(4, sys.byteorder) for fd in (0, 1, 2, here))
server.sendmsg([b"."], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, passed)])
rest = marshal.dumps(given)
while rest:
    rest = rest[server.send(rest):]
ended = server.recv(16)
if not ended:
    sys.exit("the server of commands has ended")
if int(ended) < 0:
    os.kill(os.getpid(), -int(ended))
os._exit(int(ended))
"""

_LIMITS = 16  # RLIM_NLIMITS

#: Rooms that commands load modules of.
_ROOMS = (
    "access", "audit", "backup", "cli", "crypto", "datastore", "filters", "format", "keys", "policy",
    "transport", "wire",
)  # fmt: skip


class Server:
    """`command` is an executable file in `directory` that does as `ioflt`, for whoever may look into that."""

    def __init__(
        self,
        directory: Path,
        *,
        inside: Path | None = None,
        python: tuple[str, ...] = (sys.executable,),
        prefix: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        """`prefix` starts `python` where commands run; `inside` is how `directory` is called there."""
        inside = inside or directory
        self.command = inside / "ioflt"
        place = directory / "ioflt"
        place.write_text(_COMMAND.format(python=python[0], address=str(inside / "commands"), limits=_LIMITS))
        place.chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(directory / "commands"))
            (directory / "commands").chmod(0o666)
            listener.listen(64)
            self._process = subprocess.Popen(
                [*prefix, *python, "-m", "tests.forked"],
                stdin=listener,
                cwd="/",
                env=environment or os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
            )

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


_servers: list[Server] = []


@functools.cache
def ioflt() -> Path:
    """The command, of the one server of this process."""
    _servers.append(Server(Path(tempfile.mkdtemp(prefix=""))))
    return _servers[0].command


def end() -> None:
    """End that server, if there is one."""
    while _servers:
        _servers.pop().end()
    ioflt.cache_clear()


# In the server


def main() -> None:
    """Take connections from standard input, which is a socket that listens."""
    from ioflt import hygiene

    hygiene.end_with_parent()
    listener = socket.socket(fileno=os.dup(0))
    _load()
    gc.collect()
    gc.freeze()  # what is there stays shared by all forks
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            with suppress(BrokenPipeError):
                _serve(connection)
            os._exit(0)
        connection.close()


def _load() -> None:
    for room in _ROOMS:
        package = importlib.import_module(f"ioflt.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith(("__main__", "_build")):
                with suppress(ImportError):  # of what is not installed
                    importlib.import_module(module.name)


def _serve(connection: socket.socket) -> None:
    """Run one command in a process of its own, and say how it ended. It is killed when its client is."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 4)
    if not descriptors:  # somebody looked whether somebody listens
        return
    with connection.makefile("rb") as file:
        given = marshal.load(file)
    pid = os.fork()
    if pid == 0:
        connection.close()
        _become(given, descriptors)
        os._exit(_run())
    for descriptor in descriptors:
        os.close(descriptor)
    ended = os.pidfd_open(pid)
    if ended not in select.select([ended, connection], [], [])[0]:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    connection.sendall(b"%d" % os.waitstatus_to_exitcode(status))


def _become(given: tuple[Any, ...], descriptors: list[int]) -> None:
    arguments, environment, mask, limits, groups, group_ids, user_ids = given
    *streams, here = descriptors
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    os.fchdir(here)
    for descriptor in descriptors:
        os.close(descriptor)
    os.umask(mask)
    for number, limit in enumerate(limits):
        resource.setrlimit(number, limit)
    if os.geteuid() == 0:
        os.setgroups(groups)
        os.setresgid(*group_ids)
        os.setresuid(*user_ids)
    os.environ.clear()
    os.environb.update(environment)
    time.tzset()
    sys.argv = ["ioflt", *arguments]
    sys.stdin = sys.__stdin__ = open(0, errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(  # noqa: SIM115
        2, "w", buffering=1, errors="backslashreplace", closefd=False
    )


def _run() -> int:
    """As the end of an interpreter, but for taking it apart."""
    from ioflt.__main__ import main as run

    try:
        code = run()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(ValueError, OSError):
            stream.flush()
    return code


if __name__ == "__main__":
    main()
