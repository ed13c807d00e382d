"""TLS connections to servers: TLS 1.2 or 1.3, a client certificate, a server that is the one that was named.

The server's certificate must lead to one of the trust anchors (which may be that certificate itself), be
valid today, and be made out to the host name or address that was dialled. There is no way to leave that out.
Time limits are the caller's, by cancel scopes.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import trio

from ioflt.errors import PeerError, UsageError

#: OpenSSL wipes plaintext from its buffers once it was read (SSL_OP_CLEANSE_PLAINTEXT; not in Python's ssl).
_OP_CLEANSE_PLAINTEXT: Final = 0x2

Stream: TypeAlias = "trio.SSLStream[trio.SocketStream]"


class TlsFailed(PeerError):
    """No connection: the server is not there, is not the one that was named, or does not let us in."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom we believe, and who we are.

    `anchors`: certificates in PEM. `identity`: a PEM file with our private key and certificate.
    """

    anchors: str
    identity: Path | None = None

    def context(self) -> ssl.SSLContext:
        """What connections are made with. Raises UsageError for files or text that are no certificates."""
        context = _context(self.identity)
        try:
            context.load_verify_locations(cadata=self.anchors)
        except (ssl.SSLError, ValueError):
            raise UsageError("no certificates of a trust anchor") from None
        # An anchor may be the server's own certificate, whoever issued it.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


def fingerprint(certificate: bytes) -> str:
    """The SHA-256 fingerprint of a DER certificate, as people compare it: AA:BB:…"""
    return hashlib.sha256(certificate).digest().hex(":").upper()


async def connect(host: str, port: int, context: ssl.SSLContext, pin: str | None = None) -> Stream:
    """A connection to the server that `host` names; `pin` is its certificate's fingerprint, where known.

    Raises TlsFailed.
    """
    stream = await _handshake(host, port, context)
    found = fingerprint(certificate_of(stream))
    if pin is not None and not hmac.compare_digest(found, pin):
        await trio.aclose_forcefully(stream)
        raise TlsFailed(f"its certificate has the fingerprint {found}, not the pinned one")
    return stream


async def peek(host: str, port: int, identity: Path | None) -> bytes:
    """The certificate (DER) of whoever answers there, for people to look at before they trust it.

    Nothing is verified, and nothing is sent. Raises TlsFailed.
    """
    context = _context(identity)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    stream = await _handshake(host, port, context)
    certificate = certificate_of(stream)
    await trio.aclose_forcefully(stream)
    return certificate


def reason_of(error: BaseException) -> str:
    """What went wrong with a connection, in a few words."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, BaseExceptionGroup):  # trio's, one for each address of a name
            inner = inner.exceptions[0]
        if isinstance(inner, ssl.SSLCertVerificationError):
            return f"its certificate is refused: {inner.verify_message.rstrip('.')}"
        if isinstance(inner, ssl.SSLError):
            return f"TLS: {(inner.reason or 'failed').replace('_', ' ').lower()}"
        if isinstance(inner, socket.gaierror):
            return inner.strerror or "its name is not known"
        if isinstance(inner, OSError) and inner.errno in errno.errorcode:
            return os.strerror(inner.errno or 0)
        inner = inner.__cause__ or inner.__context__
    return str(error) or "the connection ended"


async def _handshake(host: str, port: int, context: ssl.SSLContext) -> Stream:
    try:
        socket = await trio.open_tcp_stream(host, port)
        stream = trio.SSLStream(socket, context, server_hostname=host)
        try:
            await stream.do_handshake()
        except BaseException:  # cancelled, too: nobody else closes it
            await trio.aclose_forcefully(stream)
            raise
    except (OSError, ValueError, trio.BrokenResourceError) as error:  # ValueError: no name for TLS
        raise TlsFailed(reason_of(error)) from error
    return stream


def _context(identity: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies, the host name too
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | _OP_CLEANSE_PLAINTEXT
    if identity is not None:
        try:
            context.load_cert_chain(identity)
        except (ssl.SSLError, OSError) as error:
            raise UsageError("no private key and certificate that belong together", file=identity) from error
    return context


def certificate_of(stream: Stream) -> bytes:
    """The other side's certificate, DER."""
    certificate: bytes = stream.getpeercert(binary_form=True)
    return certificate
