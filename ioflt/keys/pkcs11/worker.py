"""`python -m ioflt.keys.pkcs11.worker N`: a vendor's module, in a process of its own. N is its socket.

A module that hangs or crashes is this process's end, not keyd's; and it finds no key here but those that it
wraps. It ends with who started it.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ioflt import confinement, hygiene
from ioflt.errors import BugError, IofltError, ProviderUnavailable
from ioflt.keys.pkcs11 import messages
from ioflt.keys.pkcs11.messages import Reply, Request
from ioflt.wire import failure
from ioflt.wire.frame import Pause, ReceiveBuffer, wipe, write_frame

if TYPE_CHECKING:
    from ioflt.keys.pkcs11.module import Module

_CHUNK = 64 << 10


def main() -> None:
    """Serve the socket until it is closed."""
    hygiene.harden()
    hygiene.end_with_parent()
    # What keyd may not write, this may not either: it is started confined. A domain of its own is what keeps
    # root's worker from reading keyd's memory.
    confinement.confine((Path("/"),), None, outwards=True)
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        _Worker(sock).serve()


class _Worker:
    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._module: Module | None = None

    def serve(self) -> None:
        """Answer requests, one after the other. Returns when the socket is closed."""
        decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
        received = ReceiveBuffer(decoder)
        chunk = bytearray(_CHUNK)
        try:
            while (request := received.next_event()) is not Pause.CLOSED:
                if request is Pause.NEED_DATA:
                    count = self._socket.recv_into(chunk)
                    received.receive_data(memoryview(chunk)[:count])
                    wipe(chunk)
                else:
                    self._send(self._answer(request))
                    _wipe_secrets(request)
        finally:
            if self._module is not None:
                self._module.close()

    def _answer(self, request: Request) -> Reply:
        try:
            match request:
                case messages.Hello():
                    _import_library()
                    return messages.Said("")
                case messages.Load(path):
                    from ioflt.keys.pkcs11.module import Module

                    self._module = Module(path)
                    return messages.Said(str(self._module))
                case _:
                    if self._module is None:
                        raise BugError("no module is loaded")
                    return self._module.answer(request)
        except IofltError as error:
            return failure.of(error)

    def _send(self, reply: Reply) -> None:
        frame = write_frame(reply)
        if isinstance(reply, messages.Unwrapped):
            for kek in reply.keks:
                wipe(kek)
        try:
            self._socket.sendall(frame)
        finally:
            wipe(frame)


def _import_library() -> None:
    try:
        import pkcs11  # noqa: F401
    except ImportError as error:
        raise ProviderUnavailable("it needs the package python-pkcs11") from error


def _wipe_secrets(request: Request) -> None:
    if isinstance(request, messages.LogIn):
        wipe(request.pin)
    elif isinstance(request, messages.Wrap):
        wipe(request.kek)


if __name__ == "__main__":
    main()
