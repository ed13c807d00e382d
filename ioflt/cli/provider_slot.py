"""`ioflt provider slot`: the ways in which a native provider is opened."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from ioflt.cli import reporting
from ioflt.cli.passphrase import OWN_OPTION, ask, own_passphrase_option, passphrase_option
from ioflt.cli.provider_common import open_store, opened_by, own_passphrase, tell_keyd
from ioflt.cli.render import emit, json_option, say, table
from ioflt.errors import ProviderUnavailable, UsageError

if TYPE_CHECKING:
    from ioflt.crypto.secret import Secret

_KINDS = click.Choice(["passphrase", "keyfile", "systemd-creds", "tpm2", "tang"])
_kind_argument = click.argument("kind", metavar="KIND", type=_KINDS)


@click.group()
def slot() -> None:
    """The ways in which a native provider is opened, each by itself.

    \b
    passphrase     a passphrase, by `ioflt keyd unlock NAME`
    keyfile        a file beside the provider's, which only its owner may read
    systemd-creds  this machine, by systemd's credentials
    tpm2           this machine's TPM 2.0 in its present state, with a PIN if wanted
    tang           a network: where a tang server answers
    """


@slot.command(short_help="Add a way to open a provider.")
@click.argument("name")
@_kind_argument
@passphrase_option
@click.option("--pin", "with_pin", is_flag=True, help="tpm2: want a PIN too; taken as a passphrase is.")
@click.option("--pcrs", metavar="N,N", help="tpm2: open in the present state of these PCRs (default 7).")
@click.option("--tcti", metavar="T", help="tpm2: where the TPM is (default device:/dev/tpmrm0).")
@click.option("--url", metavar="URL", help="tang: the server, such as http://tang.example.com.")
@click.option("--thumbprint", metavar="T", help="tang: of a key that signs for the server (tang-show-keys).")
@own_passphrase_option
@json_option
def add(
    name: str,
    kind: str,
    passphrase_file: str | None,
    with_pin: bool,
    pcrs: str | None,
    tcti: str | None,
    url: str | None,
    thumbprint: str | None,
    provider_passphrase_file: str | None,
    as_json: bool,
) -> None:
    """Add a slot of KIND to the provider NAME. It is opened once before it counts.

    A provider that opens by a passphrase only is opened by that first.
    """
    from ioflt.cli.hints import advising
    from ioflt.keys import provider_facts
    from ioflt.keys.native import slot_admin, tpm

    secret_wanted = kind == "passphrase" or with_pin
    given = {
        "--passphrase-file": passphrase_file if not secret_wanted else None,
        "--pin": with_pin if kind != "tpm2" else None,
        "--pcrs": pcrs if kind != "tpm2" else None,
        "--tcti": tcti if kind != "tpm2" else None,
        "--url": url if kind != "tang" else None,
        "--thumbprint": thumbprint if kind != "tang" else None,
    }
    for option, value in given.items():
        if value:
            raise UsageError(f"{option} is not for this kind of slot")
    if kind == "tang" and (url is None or thumbprint is None):
        raise UsageError("a tang slot needs --url and --thumbprint")
    store = open_store()
    with (
        contextlib.ExitStack() as stack,
        advising(ProviderUnavailable, "TPM at", "name the TPM by --tcti; add the slot where it is"),
        advising(
            ProviderUnavailable, "tang server", "check --url and --thumbprint: tang-show-keys prints it"
        ),
    ):
        own = own_passphrase(stack, provider_facts.about(store, name), provider_passphrase_file)
        secret: Secret | None = None
        if secret_wanted:
            what = "PIN" if with_pin else "Passphrase"
            secret = stack.enter_context(
                ask(passphrase_file, f"New {what} of the provider {name}", confirm=True)
            )
        wanted = slot_admin.NewSlot(
            kind,
            secret,
            tcti=tcti if tcti is not None else tpm.DEVICE,
            pcrs=_numbers(pcrs) if pcrs is not None else tpm.PCRS,
            url=url or "",
            thumbprint=thumbprint or "",
        )
        stack.enter_context(reporting.told(reporting.provider(name), ("provider.slot", None, kind)))
        changed = slot_admin.add(store, name, wanted, own)
    tell_keyd()
    done = {"provider": name, "kind": "native", "slots": opened_by(changed)}
    emit(done, lambda: say(f"the provider {name} opens by {kind} too"), as_json)


@slot.command(short_help="Remove a way to open a provider.")
@click.argument("name")
@_kind_argument
@own_passphrase_option
@json_option
def remove(name: str, kind: str, provider_passphrase_file: str | None, as_json: bool) -> None:
    """Remove the slot of KIND from the provider NAME; the last one never.

    Another slot is opened first: where only a passphrase is left, that is asked for.
    """
    from ioflt.keys.native import slot_admin
    from ioflt.keys.native.file import kind_of
    from ioflt.keys.native.slots import waits_for_secret

    store = open_store()
    with contextlib.ExitStack() as stack:
        own: Secret | None = None
        left = [slot for slot in store.load(name).slots if kind_of(slot) != kind]
        if provider_passphrase_file is not None or (left and all(map(waits_for_secret, left))):
            prompt = f"Passphrase by which the provider {name} opens then"
            own = stack.enter_context(ask(provider_passphrase_file, prompt, option=OWN_OPTION))
        stack.enter_context(reporting.told(reporting.provider(name), ("provider.slot", kind, None)))
        changed = slot_admin.remove(store, name, kind, own)
    tell_keyd()
    done = {"provider": name, "kind": "native", "slots": opened_by(changed)}
    emit(done, lambda: say(f"the provider {name} opens by {kind} no more"), as_json)


@slot.command(name="list", short_help="List the ways to open a provider.")
@click.argument("name")
@json_option
def list_(name: str, as_json: bool) -> None:
    """List the slots of the provider NAME; those that need no passphrase are tried."""
    from ioflt.keys.native import slot_admin

    found = slot_admin.listing(open_store(), name)
    rows = [
        (one.kind, f"{one.state}: {one.reason}" if one.reason else one.state, one.detail) for one in found
    ]
    emit(found, lambda: table(("KIND", "STATE", "WHERE"), rows), as_json)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"not numbers of PCRs: {text[:80]!r}") from None
