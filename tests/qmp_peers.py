"""Who listens where QEMU's monitor should: as a script says, whatever QEMU would do."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

GREETING = {
    "QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}
}


class Peer:
    """One connection, as the script sees it."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._lines = connection.makefile("rb")

    def say(self, *messages: object) -> None:
        self.socket.sendall(b"".join(json.dumps(message).encode() + b"\r\n" for message in messages))

    def hear(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise ConnectionError
        return dict(json.loads(line))

    def answer(self, value: object) -> dict[str, Any]:
        """Hear a command, and answer it."""
        command = self.hear()
        self.say({"return": value, "id": command["id"]})
        return command

    def greet(self) -> None:
        self.say(GREETING)
        self.answer({})

    def wait(self) -> None:
        """Until the client hangs up."""
        while self.socket.recv(1 << 20):
            pass


class Impostor:
    """Serves one connection after the other by `script`. A context manager; its thread ends with it."""

    def __init__(self, path: Path, script: Callable[[Peer], None]) -> None:
        self.path = path
        self._script = script
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self.connections = 0

    def __enter__(self) -> Impostor:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self.path.unlink()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # it is over
                return
            self.connections += 1
            with connection, contextlib.suppress(OSError):  # the client went
                self._script(Peer(connection))
