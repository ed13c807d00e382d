"""Of the keyd protocol: key providers, for who administers them by keyd and may not read their files.

What opens a provider goes in and never out. There is no field for a program, a library or a file of the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

import msgspec

from ioflt.wire.keyd.values import Struct

Meta = msgspec.Meta

#: Longest text in PEM, and longest secret by which a provider logs in, in bytes.
MAX_PEM = 64 << 10

#: Most servers of a change. How many a cluster has, and what names look like, the providers' files say.
MAX_SERVERS = 64

#: Most steps of a trial.
MAX_STEPS = 1024

#: A name: of a provider, a host, or something on a server.
Name = Annotated[str, Meta(max_length=1024)]
Pem = Annotated[str, Meta(max_length=MAX_PEM)]
Text = Annotated[str, Meta(max_length=4096)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Passphrase = Annotated[bytearray, Meta(max_length=4096)]
#: One public fact about a provider.
Fact: TypeAlias = bool | str | tuple[str, ...]


class About(Struct, frozen=True):
    """What may be known of a provider. `seen` is another whenever its files are: a change names it."""

    name: Name
    kind: Annotated[str, Meta(max_length=16)]
    seen: Digest
    facts: dict[str, Fact]


class Server(Struct, frozen=True):
    host: Name
    port: Annotated[int, Meta(ge=0, lt=2**32)]


class Shown(Struct, frozen=True):
    """The certificate (DER) that a server shows."""

    server: Server
    certificate: Annotated[bytes, Meta(max_length=MAX_PEM)]


class Step(Struct, frozen=True):
    """Of a trial: of which server (empty: of all), what was done, how it went; `error` when it failed."""

    server: Text
    step: Text
    result: Text
    error: Text


class Login(Struct, frozen=True):
    """To a transit engine's server: a token, or a private key and certificate in PEM. keyd keeps it."""

    kind: Literal["token", "certificate"]
    secret: Annotated[bytearray, Meta(max_length=MAX_PEM)]
    mount: Name
    role: Name


class _Change(Struct, frozen=True, tag_field="change", tag=str.lower):
    """A change of a provider, told apart by its `change`."""

    name: Name


class CreateNative(_Change, frozen=True):
    """Opened by the passphrase, or by the host."""

    passphrase: Passphrase | None


class CreateKmip(_Change, frozen=True):
    """`csr`: the answer's text is a signing request, else a certificate."""

    servers: Annotated[tuple[Server, ...], Meta(max_length=MAX_SERVERS)]
    timeout: float
    csr: bool


class CreateTransit(_Change, frozen=True):
    """`anchors`: what the server's certificate leads to."""

    server: Server
    mount: Name
    key: Name
    login: Login
    anchors: Pem
    timeout: float


class Choose(_Change, frozen=True):
    """For new keys, in the place of the one that was chosen `before`."""

    before: Name | None


class Remove(_Change, frozen=True):
    """`force`: although keyd knows what has keys of it."""

    seen: Digest
    force: bool


class TrustServers(_Change, frozen=True):
    """Exactly these certificates, each of its server."""

    seen: Digest
    shown: Annotated[tuple[Shown, ...], Meta(max_length=MAX_SERVERS)]


class TrustAuthority(_Change, frozen=True):
    """Servers whose certificates these issued, and no other."""

    seen: Digest
    anchors: Pem


class Install(_Change, frozen=True):
    """A client certificate, whose private key is with the provider."""

    seen: Digest
    certificate: Pem


class Renew(_Change, frozen=True):
    """A new private key, in use once its certificate is installed. `csr` as in CreateKmip."""

    seen: Digest
    csr: bool


class LogIn(_Change, frozen=True):
    """To a transit engine's server, so from now on."""

    seen: Digest
    login: Login


class ChangePassphrase(_Change, frozen=True):
    """Of a native provider, which the host or its `own` passphrase opens."""

    seen: Digest
    new: Passphrase
    own: Passphrase | None


class BackUp(_Change, frozen=True):
    """No change, but asked for as one: a native provider's key under that passphrase; `own` as above."""

    seen: Digest
    passphrase: Passphrase
    own: Passphrase | None


class MarkBackedUp(_Change, frozen=True):
    """Its backup was kept."""


Change: TypeAlias = (
    CreateNative
    | CreateKmip
    | CreateTransit
    | Choose
    | Remove
    | TrustServers
    | TrustAuthority
    | Install
    | Renew
    | LogIn
    | ChangePassphrase
    | MarkBackedUp
)


def secrets(change: Change | BackUp) -> Iterator[bytearray]:
    """What of a change is secret, to be wiped once it was sent or done."""
    for value in (getattr(change, name) for name in change.__struct_fields__):
        if isinstance(value, Login):
            yield value.secret
        elif isinstance(value, bytearray):
            yield value
