"""The control socket of a mount, without the mount: answers as told and keeps what it was asked."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

from ioflt.wire.control import messages as m
from ioflt.wire.control.connection import requests, write
from ioflt.wire.frame import CLOSED, NEED_DATA


class FakeMount:
    """Listens at `path` for the length of a `with`. `open`: the files that are open."""

    def __init__(self, path: Path, open_: tuple[str, ...] = (), unflushed: tuple[str, ...] = ()) -> None:
        self.open = open_
        self.unflushed = unflushed
        self.asked: list[m.RequestBody] = []
        self.during_lock = lambda: None
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> FakeMount:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._thread.join()
        self._socket.close()

    @property
    def kinds(self) -> list[str]:
        """What it was asked, Hello left out."""
        return [type(request).__name__ for request in self.asked if not isinstance(request, m.Hello)]

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                with client:
                    self._converse(client)

    def _converse(self, client: socket.socket) -> None:
        buffer = requests()
        while (event := buffer.next_event()) is not CLOSED:
            if event is NEED_DATA:
                buffer.receive_data(client.recv(4096))
            else:
                self.asked.append(event)
                client.sendall(write(self._answer(event)))

    def _answer(self, request: m.RequestBody) -> m.ReplyBody:
        match request:
            case m.Hello():
                return m.Status("/ds", "/mnt", 1, False, False, len(self.open), {})
            case m.Lock(mode):
                if self.open and mode == "refuse":
                    return m.Busy(self.open)
                self.during_lock()
                return m.Locked(self.open, self.unflushed)
            case m.AddKeyslot():
                return m.Keyslot(1)
            case _:
                return m.Done()
