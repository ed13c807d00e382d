"""`ioflt provider create kmip | trust | renew`: key servers, and the trust between them and us."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

import click

from ioflt.cli import reporting
from ioflt.cli.provider_common import open_providers, tell_keyd
from ioflt.cli.render import emit, json_option, printable, say
from ioflt.errors import CorruptDataError, DeniedError, UsageError

if TYPE_CHECKING:
    from ioflt.crypto.certificates import Certificate
    from ioflt.keys.kmip.file import KmipServer
    from ioflt.keys.providers import Providers
    from ioflt.wire.keyd.providers import About


def _servers(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> list[KmipServer]:
    return [_server(value) for value in values]


def _server(text: str) -> KmipServer:
    """HOST, HOST:PORT, [IPv6] or [IPv6]:PORT."""
    from ioflt.keys.kmip.file import PORT, KmipServer

    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        wrong = not bracket or (rest and colon != ":")
    else:
        host, colon, port = text.partition(":")
        wrong = ":" in port
    if wrong or not host or (colon and not port.isascii()) or (colon and not port.isdigit()):
        raise UsageError(f"no server: {text!r}; write HOST, HOST:PORT or [IPV6]:PORT")
    return KmipServer(host=host, port=int(port) if colon else PORT)


@click.command(short_help="Make a provider whose keys are on KMIP key servers.")
@click.argument("name")
@click.option(
    "--server",
    "servers",
    metavar="HOST[:PORT]",
    multiple=True,
    required=True,
    callback=_servers,
    help="A server of the cluster; again for each further one, in the order to ask them.",
)
@click.option(
    "--timeout",
    type=float,
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="For each server's answer.",
)
@click.option("--csr", is_flag=True, help="OUT is a signing request; else a self-signed certificate.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Write what the servers need to the new file OUT.",
)
@json_option
def kmip(
    name: str, servers: list[KmipServer], timeout: float, csr: bool, out: Path | None, as_json: bool
) -> None:
    """Make the provider NAME: a cluster of KMIP servers that have the same keys.

    Makes a private key and a client certificate. Upload OUT to the key servers, or have it signed and
    give the result to `ioflt provider trust NAME --certificate FILE`. Then trust the servers:
    `ioflt provider trust NAME`, and try it: `ioflt provider test NAME`.
    """
    from ioflt.keys import files

    if out is None and csr:
        raise UsageError("a signing request has to be written somewhere: --out OUT")
    if out is not None and out.exists():
        raise click.BadParameter(f"{out} exists already", param_hint="--out")
    listed = ", ".join(map(str, servers))
    with (
        open_providers() as providers,
        reporting.by_files(name, ("provider.kind", None, "kmip"), ("provider.servers", None, listed)),
    ):
        text = providers.create_kmip(name, servers, timeout, csr=csr)
    if out is not None:
        files.create(out, text.encode())
    tell_keyd()
    done = {
        "provider": name,
        "kind": "kmip",
        "servers": [str(server) for server in servers],
        "out": None if out is None else str(out),
    }
    text = f"made the provider {name}; it is of use once servers and provider trust each other"
    emit(done, lambda: say(text), as_json)


@click.command(short_help="Make servers and provider trust each other.")
@click.argument("name")
@click.option(
    "--ca",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Trust servers whose certificates are issued by those in FILE (PEM).",
)
@click.option(
    "--certificate",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Use the client certificate in FILE (PEM), which the servers' side signed or took; for a transit"
    " provider with its private key.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Log in to a transit engine's server by the token in FILE.",
)
@click.option(
    "--fingerprint",
    "fingerprints",
    multiple=True,
    metavar="AA:BB:…",
    help="Trust the server with this SHA-256 fingerprint, without asking.",
)
@json_option
def trust(
    name: str,
    ca: Path | None,
    certificate: Path | None,
    token_file: Path | None,
    fingerprints: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say whom the provider NAME trusts, and who it is to them.

    Without options: shows the certificate of every server and, once you agree, accepts exactly these.
    Compare the fingerprints with what the servers' own consoles show. A transit provider trusts by --ca, and
    logs in by --token-file or --certificate.
    """
    with open_providers() as providers:
        about = providers.about(name)
        if about.kind == "transit":
            if fingerprints or (ca is None and certificate is None and token_file is None):
                raise UsageError(f"the provider {name} trusts who issued its server's certificate: --ca FILE")
            done = _trust_engine(providers, about, ca, certificate, token_file)
        else:
            if token_file is not None:
                raise UsageError(f"the provider {name} does not log in by a token")
            wanted = {text.upper() for text in fingerprints}
            shown_on = sys.stderr if as_json else sys.stdout
            done = _exchange(providers, about, ca, certificate, wanted, shown_on)
    tell_keyd()

    def text() -> None:
        if done.certificate is not None:
            say(f"the provider {name} is {done.certificate.subject}, until {done.certificate.until}")
        if done.login is not None:
            say(f"the provider {name} logs in by another {done.login}")
        for anchor in done.authorities:
            say(f"the provider {name} trusts {anchor.subject}, until {anchor.until}")
        if done.servers:
            many = "its server" if len(done.servers) == 1 else f"{len(done.servers)} servers"
            say(f"the provider {name} trusts {many}")

    emit(done, text, as_json)


@dataclass(frozen=True, slots=True)
class _Certificate:
    """What a certificate says of itself. `server`: who showed it; `until`: its last day."""

    server: str | None
    subject: str
    issuer: str
    until: str
    sha256: str


@dataclass(frozen=True, slots=True)
class _Trust:
    """What a trust exchange changed: who the provider is to the servers, whom it trusts from now on.

    `login`: by what kind of login a transit provider has another one.
    """

    provider: str
    certificate: _Certificate | None = None
    authorities: Sequence[_Certificate] = ()
    servers: Sequence[_Certificate] = ()
    login: str | None = None


def _trust_engine(
    providers: Providers, about: About, ca: Path | None, certificate: Path | None, token_file: Path | None
) -> _Trust:
    from ioflt.keys.providers import LoginFile

    if certificate is not None and token_file is not None:
        raise UsageError("--certificate or --token-file?")
    login = None
    authorities: Sequence[_Certificate] = ()
    path = certificate or token_file
    if path is not None:
        kind: Literal["token", "certificate"] = "token" if certificate is None else "certificate"
        mount, role = (str(about.facts.get(fact, "")) for fact in ("login_mount", "role"))
        with reporting.by_files(about.name, ("provider.login", None, kind)):
            providers.log_in_by(about, LoginFile(kind, path, mount or "cert", role))
        login = kind
    if ca is not None:
        authorities = _trust_authority(providers, providers.about(about.name), ca)
    return _Trust(about.name, authorities=authorities, login=login)


def _exchange(
    providers: Providers,
    about: About,
    ca: Path | None,
    certificate: Path | None,
    fingerprints: set[str],
    shown_on: TextIO,
) -> _Trust:
    ours = None
    authorities: Sequence[_Certificate] = ()
    servers: Sequence[_Certificate] = ()
    if certificate is not None:
        installs = ("provider.certificate", None, os.path.abspath(certificate))
        with _naming(certificate), reporting.by_files(about.name, installs):
            ours = _told(providers.install(about, _read(certificate)))
    if ca is not None:
        authorities = _trust_authority(providers, providers.about(about.name), ca)
    if ca is None and certificate is None:
        servers = _pin(providers, about, fingerprints, shown_on)
    return _Trust(about.name, ours, authorities, servers)


def _trust_authority(providers: Providers, about: About, ca: Path) -> list[_Certificate]:
    trusts = ("provider.trust", None, os.path.abspath(ca))
    with _naming(ca), reporting.by_files(about.name, trusts):
        return [_told(anchor) for anchor in providers.trust_authority(about, _read(ca))]


def _told(certificate: Certificate, server: KmipServer | None = None) -> _Certificate:
    from ioflt.transport import tls

    return _Certificate(
        None if server is None else str(server),
        certificate.subject,
        certificate.issuer,
        f"{certificate.not_after:%Y-%m-%d}",
        tls.fingerprint(certificate.der),
    )


@click.command(short_help="Make a new client certificate.")
@click.argument("name")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--csr", is_flag=True, help="OUT is a signing request; else a self-signed certificate.")
@json_option
def renew(name: str, out: Path, csr: bool, as_json: bool) -> None:
    """Make a new private key for the provider NAME, and write its certificate or request to the new file OUT.

    The old one stays in use until `ioflt provider trust NAME --certificate FILE` installs the new one.
    """
    from ioflt.keys import files

    if out.exists():
        raise click.BadParameter(f"{out} exists already", param_hint="OUT")
    with (
        open_providers() as providers,
        reporting.by_files(name, ("provider.certificate", None, os.path.abspath(out))),
    ):
        files.create(out, providers.renew(providers.about(name), csr=csr).encode())
    given = "have it signed" if csr else "upload it to the servers"
    text = f"{out}: {given}, then: ioflt provider trust {name} --certificate {'FILE' if csr else out}"
    emit({"provider": name, "out": str(out)}, lambda: say(text), as_json)


def _pin(providers: Providers, about: About, wanted: set[str], shown_on: TextIO) -> list[_Certificate]:
    """Trust what the servers show now, if its fingerprints are `wanted`, or else if a person says yes."""
    from ioflt.crypto import certificates
    from ioflt.transport import tls

    found = providers.look(about.name)
    shown = []
    for server, der in found.items():
        told = _told(certificates.read(certificates.to_pem(der))[0], server)
        shown.append(told)
        print(f"server       {told.server}", file=shown_on)
        print(printable(f"subject      {told.subject}"), file=shown_on)
        print(printable(f"issuer       {told.issuer}"), file=shown_on)
        print(f"valid until  {told.until}", file=shown_on)
        print(f"SHA-256      {told.sha256}", file=shown_on)
    strangers = [str(server) for server, der in found.items() if tls.fingerprint(der) not in wanted]
    if wanted and strangers:
        raise DeniedError(f"another fingerprint than yours: {', '.join(strangers)}")
    if not wanted:
        if not sys.stdin.isatty():
            raise UsageError("nobody is there to compare the fingerprints; give them with --fingerprint")
        click.confirm("Trust exactly these certificates?", abort=True, err=True)
    pinned = ", ".join(f"{told.server} {told.sha256}" for told in shown)
    with reporting.by_files(about.name, ("provider.trust", None, pinned)):
        providers.trust_servers(about, found)
    return shown


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors in what a file holds name the file."""
    try:
        yield
    except CorruptDataError as error:
        error.file = error.file or str(path)
        raise


def _read(path: Path) -> str:
    from ioflt.keys import files
    from ioflt.keys.provider_file import MAX_FILE

    return files.read(path, MAX_FILE).decode(errors="replace")
