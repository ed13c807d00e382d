"""Programs that seal and open small secrets, by pipes: nothing secret in argv, environment or files."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence

from ioflt.crypto.secret import Secret
from ioflt.errors import BugError, PeerError, ProviderUnavailable

_MAX_OUTPUT = 16384


class NoAnswer(PeerError):
    """The program did not end in time."""


def run(
    name: str, command: Sequence[str], given: Secret, *, timeout: float, env: dict[str, str] | None = None
) -> Secret:
    """The program's output, at most 16 KiB; `given` must fit into a pipe. `name` stands in messages.

    Raises ProviderUnavailable when it cannot be started, NoAnswer, PeerError with its last line of complaint.
    """
    try:
        process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", **(env or {})},
            start_new_session=True,
        )
    except OSError as error:
        raise ProviderUnavailable(f"{name}: {error.strerror}") from error
    with process:
        try:
            return _talk(name, process, given, timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):  # what it started may hang too
                os.killpg(process.pid, signal.SIGKILL)


def _talk(name: str, process: subprocess.Popen[bytes], given: Secret, timeout: float) -> Secret:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise BugError("a program was started without pipes")
    # What is written fits into a pipe, so nobody waits for the other. Read into memory that can be wiped.
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(given.view())
    process.stdin.close()
    deadline = time.monotonic() + timeout
    with Secret.allocate(_MAX_OUTPUT) as output, Secret.allocate(_MAX_OUTPUT) as complaint:
        counts = {process.stdout.fileno(): 0, process.stderr.fileno(): 0}
        rooms = {process.stdout.fileno(): output, process.stderr.fileno(): complaint}
        with selectors.DefaultSelector() as selector:
            for descriptor in counts:
                selector.register(descriptor, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise NoAnswer(f"{name}: no answer in {timeout:.0f} seconds")
                for key, _ in ready:
                    if counts[key.fd] == _MAX_OUTPUT:
                        raise PeerError(f"{name}: it says too much")
                    count = os.readv(key.fd, [rooms[key.fd].buffer()[counts[key.fd] :]])
                    counts[key.fd] += count
                    if not count:
                        selector.unregister(key.fd)
        try:
            code = process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise NoAnswer(f"{name}: no answer in {timeout:.0f} seconds") from None
        count = counts[process.stdout.fileno()]
        if code != 0 or count == 0:
            said = bytes(complaint.view()[: counts[process.stderr.fileno()]]).decode(
                errors="backslashreplace"
            )
            lines = said.strip().splitlines()
            raise PeerError(f"{name}: {lines[-1] if lines else 'no output'}")
        return Secret(output.view()[:count])
