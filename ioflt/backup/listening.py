"""Where an export listens: a unix socket in a private directory, or an address that was asked for."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ioflt.errors import BusyError, UsageError
from ioflt.transport import unix

_BACKLOG: Final = 64
_CONNECT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address, and a TCP port; 0: any that is free."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """`HOST:PORT`, `[HOST]:PORT`, HOST an IP address. Raises UsageError."""
        host, _, port = text.rpartition(":")
        try:
            found = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
            number = int(port)
        except ValueError:
            raise UsageError(
                f"not an IP address and a port, as 127.0.0.1:10809: {ascii(text)[:80]}"
            ) from None
        if not port.isascii() or not port.isdecimal() or number > 0xFFFF:
            raise UsageError(f"not a port: {ascii(port)[:80]}")
        return cls(str(found), number)

    @property
    def local(self) -> bool:
        """Whether nobody reaches it but from this host."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def connect(self) -> socket.socket:
        """From this host."""
        host = self.host
        if ipaddress.ip_address(host).is_unspecified:
            host = "::1" if self.family is socket.AF_INET6 else "127.0.0.1"
        return socket.create_connection((host, self.port), _CONNECT_S)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def listen_on(address: Address) -> socket.socket:
    """Raises BusyError for a port that is taken, UsageError."""
    made = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address.host, address.port))
        made.listen(_BACKLOG)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise BusyError(f"the port is taken: {address}") from error
        raise UsageError(f"cannot listen on {address}: {error.strerror}") from error
    return made


def listen_unix(path: str) -> socket.socket:
    """A socket of mode 0600. Raises UsageError."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with unix.address(Path(path)) as name:
            made.bind(name)
        os.chmod(path, 0o600)
        made.listen(_BACKLOG)
    except OSError as error:
        made.close()
        raise UsageError(f"cannot listen: {error.strerror}", file=path) from error
    return made
