"""A one-time ticket: a pre-shared key of TLS, for one disk, one principal and a time.

The key is in no argument and in no environment: in a file in the format of GnuTLS (`keys.psk`, one line
`NAME:HEX`), which the server and its client read. That it is used once the server sees to: it ends with the
last connection of the first client.
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ioflt.crypto.secret import Secret

#: The name that qemu's tls-creds-psk looks for in its directory.
FILE: Final = "keys.psk"

#: Bytes of a key.
_KEY: Final = 32


@dataclass(frozen=True, slots=True)
class Ticket:
    """`name` is no secret: events have it, and the client says it. `until`: seconds since 1970."""

    name: str
    file: Path
    until: int
    _deadline: float = field(repr=False)

    @classmethod
    def write(cls, directory: Path, seconds: int) -> Ticket:
        """A new one, good for so long from now on; its key in a file of mode 0600."""
        name, path = secrets.token_hex(8), directory / FILE
        with Secret(bytearray(secrets.token_bytes(_KEY))) as key:
            line = bytearray(name.encode() + b":" + key.view().hex().encode() + b"\n")
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, line)
            finally:
                os.close(fd)
                line[:] = bytes(len(line))
        return cls(name, path, int(time.time()) + seconds, time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds until its time is over; 0 when it is."""
        return max(0.0, self._deadline - time.monotonic())
