"""`ioflt provider create pkcs11`: keys wrapped by a key in a token, an HSM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ioflt.cli import reporting
from ioflt.cli.hints import advising
from ioflt.cli.passphrase import ask
from ioflt.cli.provider_common import open_store, tell_keyd
from ioflt.cli.render import emit, json_option, say
from ioflt.errors import KeyNotFound, ProviderLocked, ProviderUnavailable, UsageError

if TYPE_CHECKING:
    from ioflt.crypto.secret import Secret
    from ioflt.keys.pkcs11.file import Pkcs11File


def _variables(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    given = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals:
            raise UsageError(f"no variable: {value!r}; write NAME=VALUE")
        given[name] = text
    return given


_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(short_help="Make a provider whose keys a token (an HSM) wraps.")
@click.argument("name")
@click.option(
    "--module", type=_FILE, metavar="FILE", required=True, help="The PKCS#11 library of the token's vendor."
)
@click.option("--token", metavar="LABEL", required=True, help="The token's label.")
@click.option("--key", metavar="LABEL", required=True, help="The label of the AES-256 key in it that wraps.")
@click.option("--generate", is_flag=True, help="Make that key, if the token has none of that label.")
@click.option(
    "--pin-file", type=_FILE, metavar="F", help="Log in by the PIN in the file F. Else you give it to keyd."
)
@click.option(
    "--passphrase-file",
    metavar="F",
    help="Without --pin-file: read the PIN from F (- is standard input) now.",
)
@click.option(
    "--variable",
    "environment",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_variables,
    help="What the library finds in its environment, and nothing else; again for each further one.",
)
@click.option(
    "--timeout",
    type=float,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="For each answer of the library.",
)
@json_option
def pkcs11(
    name: str,
    module: Path,
    token: str,
    key: str,
    generate: bool,
    pin_file: Path | None,
    passphrase_file: str | None,
    environment: dict[str, str],
    timeout: float,
    as_json: bool,
) -> None:
    """Make the provider NAME: this machine makes keys, and keeps them wrapped by a key of the token.

    With --pin-file it opens by itself; F stays where it is, with mode 0600, and holds the user's PIN in a
    line. Without, it opens by `ioflt keyd unlock NAME` only. Then try it: `ioflt provider test NAME`.
    """
    from ioflt.keys.pkcs11.provider import pin_in
    from ioflt.keys.pkcs11.store import Pkcs11Store

    if pin_file is not None and passphrase_file is not None:
        raise UsageError("--pin-file and --passphrase-file: the PIN is either in a file that stays, or given")
    store = Pkcs11Store(open_store().directory)
    pin_path = None if pin_file is None else str(pin_file.absolute())
    file = store.prepare(name, str(module.absolute()), token, key, pin_path, environment, timeout)
    # What is missing is told of by keyd in the same words, when there is a provider that can be tested.
    with advising(ProviderUnavailable, "^(?!.*package)", "nothing was made; see that all of this is there"):
        if pin_path is not None:
            pin = pin_in(pin_path, name)
        else:
            pin = ask(passphrase_file, f"PIN of the token {token}")
        with pin:
            found = _wrapping_key(file, pin, make=generate)
    with reporting.told(
        reporting.provider(name), ("provider.kind", None, "pkcs11"), ("provider.token", None, token)
    ):
        store.add(file)
    tell_keyd()
    how = "" if pin_file is not None else f"it opens by: ioflt keyd unlock {name}; "
    done = {"provider": name, "kind": "pkcs11", "token": token, "key": key}
    made = f"made the provider {name}, by the key {key} ({found})"
    emit(done, lambda: say(f"{made}; {how}try it: ioflt provider test {name}"), as_json)


def _wrapping_key(file: Pkcs11File, pin: Secret, *, make: bool) -> str:
    from ioflt.keys.pkcs11.provider import checked_pin
    from ioflt.keys.pkcs11.token import Token

    found = Token(file)
    try:
        with (
            checked_pin(pin) as given,
            advising(KeyNotFound, "", "nothing was made; with --generate the key is made in the token"),
            advising(ProviderLocked, "", "nothing was made; a token locks itself after some wrong PINs"),
        ):
            return found.open(given, by_hand=False, make=make)
    finally:
        found.close()
