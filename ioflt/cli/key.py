"""`ioflt key`: what keys protect (`key_use`), and keys on key servers, for those who operate them."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

import click

from ioflt.cli import key_use
from ioflt.cli.hints import advising
from ioflt.cli.render import emit, json_option, printable, say
from ioflt.cli.session import connect_keys
from ioflt.errors import KeyNotUsable, UsageError
from ioflt.types import KeyRef

if TYPE_CHECKING:
    from ioflt.wire.keyd.values import Revocation

_REASONS = (
    "unspecified",
    "key-compromise",
    "affiliation-changed",
    "superseded",
    "cessation-of-operation",
    "privilege-withdrawn",
)
_STATES = ("pre-active", "active", "deactivated", "compromised", "destroyed", "destroyed-compromised")


@click.group()
def key() -> None:
    """Keys: what they protect, and their life on key servers."""


for command in (key_use.list_, key_use.status, key_use.remove, key_use.add, key_use.drill_):
    key.add_command(command)


@key.command(short_help="Find keys on the servers.")
@click.argument("provider")
@click.option("--name", metavar="NAME", help="Only those with this Name.")
@click.option("--state", type=click.Choice(_STATES), help="Only those in this state.")
@click.option(
    "--attribute",
    "attributes",
    metavar="NAME=TEXT",
    multiple=True,
    help="Only those with this attribute, such as x-Name=web01; again for each further one.",
)
@json_option
def locate(
    provider: str, name: str | None, state: str | None, attributes: tuple[str, ...], as_json: bool
) -> None:
    """List the ids of symmetric keys that the servers of PROVIDER show us."""
    from ioflt.wire.keyd.requests import Criterion

    wanted = [Criterion("Name", name)] if name is not None else []
    wanted += [Criterion("State", state)] if state is not None else []
    for text in attributes:
        attribute, equals, value = text.partition("=")
        if not equals or not attribute:
            raise UsageError(f"no attribute: {text!r}; write NAME=TEXT")
        wanted.append(Criterion(attribute, value))
    with connect_keys() as keys:
        ids = keys.locate_keys(provider, wanted)

    def show() -> None:
        for key_id in ids:
            print(printable(key_id))

    emit(ids, show, as_json)


@key.command(short_help="End the use of a key for new data.")
@click.argument("provider")
@click.argument("key_id", metavar="KEY-ID")
@click.option("--reason", type=click.Choice(_REASONS), default="unspecified", show_default=True)
@json_option
def revoke(provider: str, key_id: str, reason: Revocation, as_json: bool) -> None:
    """Revoke KEY-ID on the servers of PROVIDER.

    VMs that it protects still open as long as the servers hand it out, or keyd has it.
    """
    with connect_keys() as keys:
        keys.revoke_key(KeyRef(provider, key_id), reason)
    done = {"key": str(KeyRef(provider, key_id)), "revoked": reason}
    emit(done, lambda: say(f"{key_id} is revoked"), as_json)


@key.command(short_help="Destroy a key: what it protects is gone.")
@click.argument("provider")
@click.argument("key_id", metavar="KEY-ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def destroy(provider: str, key_id: str, yes: bool, as_json: bool) -> None:
    """Destroy KEY-ID on the servers of PROVIDER, for good. They refuse while it is active: revoke it first.

    What nothing but this key opens is lost once keyd forgets it.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("a destroyed key never comes back; if that is meant, say --yes")
        click.confirm(f"Destroy {printable(key_id)} and all that only it opens?", abort=True, err=True)
    revoke_it = f"if it is still active, end its use first: ioflt key revoke {shlex.join((provider, key_id))}"
    with connect_keys() as keys, advising(KeyNotUsable, "may not be used", revoke_it):
        keys.destroy_key(KeyRef(provider, key_id))
    done = {"key": str(KeyRef(provider, key_id)), "destroyed": True}
    emit(done, lambda: say(f"{key_id} is destroyed"), as_json)
