"""`ioflt provider create transit`: keys wrapped by an OpenBao or Vault server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ioflt.cli import reporting
from ioflt.cli.provider_common import open_providers, tell_keyd
from ioflt.cli.render import emit, json_option, say
from ioflt.errors import CorruptDataError, UsageError

if TYPE_CHECKING:
    from ioflt.keys.providers import LoginFile

_URL = re.compile(r"https://(?:([0-9A-Za-z._-]+)|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{1,5}))?/?")
_HTTPS_PORT = 443


def _server(_ctx: click.Context, _param: click.Parameter, text: str) -> tuple[str, int]:
    found = _URL.fullmatch(text)
    if found is None:
        raise UsageError(f"no server: {text!r}; write https://HOST:PORT, without a path")
    return found[1] or found[2], int(found[3] or _HTTPS_PORT)


_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(short_help="Make a provider whose keys an OpenBao or Vault server wraps.")
@click.argument("name")
@click.option(
    "--url", metavar="https://HOST:PORT", required=True, callback=_server, help="Where the server answers."
)
@click.option("--key", metavar="KEY", required=True, help="The key of its transit engine that wraps.")
@click.option(
    "--ca",
    type=_FILE,
    metavar="FILE",
    required=True,
    help="Trust the server if its certificate is issued by those in FILE (PEM).",
)
@click.option("--token-file", type=_FILE, metavar="F", help="Log in by the token in the file F.")
@click.option(
    "--certificate",
    type=_FILE,
    metavar="F",
    help="Log in by the private key and client certificate in the file F (PEM).",
)
@click.option(
    "--mount", metavar="PATH", default="transit", show_default=True, help="Where the transit engine is."
)
@click.option("--login-mount", metavar="PATH", help="Where the login by certificate is.  [default: cert]")
@click.option("--role", metavar="ROLE", help="The server's entry for the certificate, if it has several.")
@click.option(
    "--timeout",
    type=float,
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="For the server's answer.",
)
@json_option
def transit(
    name: str,
    url: tuple[str, int],
    key: str,
    ca: Path,
    token_file: Path | None,
    certificate: Path | None,
    mount: str,
    login_mount: str | None,
    role: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Make the provider NAME: this machine makes keys, and keeps them wrapped by a key of the server.

    F stays where it is, with mode 0600, so that an agent can renew it; where root's keyd is asked to make the
    provider, keyd keeps what is in F. The token, or the entry of the certificate, needs the capability
    `update` on PATH/encrypt/KEY and PATH/decrypt/KEY, and no other. Then try it: `ioflt provider test NAME`.
    """
    login = _login(token_file, certificate, login_mount, role)
    server = f"{url[0]}:{url[1]}"
    try:
        with (
            open_providers() as providers,
            reporting.by_files(name, ("provider.kind", None, "transit"), ("provider.servers", None, server)),
        ):
            made = providers.create_transit(
                name, url, mount, key, login, ca.read_text(errors="replace"), timeout
            )
    except CorruptDataError as error:
        error.file = error.file or str(ca)
        raise
    tell_keyd()
    done = {"provider": name, "kind": "transit", "server": made.facts["server"], "key": key}
    emit(done, lambda: say(f"made the provider {name}; try it: ioflt provider test {name}"), as_json)


def _login(
    token_file: Path | None, certificate: Path | None, login_mount: str | None, role: str | None
) -> LoginFile:
    from ioflt.keys.providers import LoginFile

    if (token_file is None) == (certificate is None):
        raise UsageError("say how to log in: --token-file F or --certificate F")
    if certificate is not None:
        return LoginFile("certificate", certificate, login_mount or "cert", role or "")
    if login_mount is not None or role is not None:
        raise UsageError("--login-mount and --role are of a login by --certificate")
    return LoginFile("token", token_file or Path())
