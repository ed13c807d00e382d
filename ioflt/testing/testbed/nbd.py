"""The bed's disk over NBD: qemu-nbd on the bed's mount, so that its faults are met there, too."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ioflt.errors import PeerError
from ioflt.testing.testbed.process import Process


@contextmanager
def serve(disk: Path, directory: Path) -> Iterator[str]:
    """Serve a VMDK read-only while a block runs; its URI. The socket lies in the directory."""
    socket, number = directory / "nbd", directory / "nbd.pid"
    how = ("--fork", "--read-only", "--persistent", "--shared=4", "--format=vmdk")
    command = ["qemu-nbd", *how, f"--socket={socket}", f"--pid-file={number}", str(disk)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PeerError(f"qemu-nbd: {done.stderr.strip()}")
    server = Process.of(int(number.read_text()))
    try:
        yield f"nbd+unix:///?socket={socket}"
    finally:
        server.kill()
        socket.unlink()
