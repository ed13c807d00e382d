"""Binding 32 bytes to a network: a tang server must help to open them, and never sees them.

The exchange (McCallum-Relyea) is clevis's. It answers with a JWE, whose protected header names the server;
only its content is secret.
"""

from __future__ import annotations

import binascii
import json
from base64 import urlsafe_b64decode

from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, MalformedError, PeerError, ProviderUnavailable
from ioflt.format.strict_json import parse_object
from ioflt.keys.native import programs

_PROGRAM = "/usr/bin/clevis"

#: Seconds for the server's answer: short, as whoever wants a key waits.
TIMEOUT_S = 10.0


def seal(url: str, thumbprint: str, key: Secret) -> str:
    """`key` for whoever reaches the server, which has a signing key of that thumbprint.

    Raises ProviderUnavailable when the server does not answer, or another one does.
    """
    policy = json.dumps({"url": url, "thp": thumbprint})
    try:
        with _run(["encrypt", "tang", policy], key) as sealed:
            return str(sealed.view(), "ascii").strip()
    except (PeerError, UnicodeDecodeError) as error:
        raise ProviderUnavailable(f"the tang server at {url}: {error}") from error


def unseal(url: str, sealed: str) -> Secret:
    """What `seal` got. Raises ProviderUnavailable; AuthenticationError: it is not sealed to that server."""
    if _server_of(sealed) != url:
        raise AuthenticationError("the seal is not one of its tang server")
    try:
        return _run(["decrypt"], Secret(sealed.encode()))
    except PeerError as error:
        raise ProviderUnavailable(f"the tang server at {url}: {error.message}") from error


def _server_of(sealed: str) -> str | None:
    """The URL in the protected header. clevis runs the pin that this header names, so it must be tang."""
    head = sealed.partition(".")[0]
    try:
        header = parse_object(urlsafe_b64decode(head + "=" * (-len(head) % 4)))
        clevis = header["clevis"]
        return str(clevis["tang"]["url"]) if clevis["pin"] == "tang" else None
    except (binascii.Error, ValueError, KeyError, TypeError, MalformedError) as error:
        raise AuthenticationError("the seal is no JWE of clevis") from error


def _run(arguments: list[str], given: Secret) -> Secret:
    return programs.run("clevis", [_PROGRAM, *arguments], given, timeout=TIMEOUT_S)
