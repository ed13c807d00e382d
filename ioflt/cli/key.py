"""`ioflt key`: what keys protect (`key_use`), and keys on key servers, for those who operate them."""

from __future__ import annotations

import shlex
import sys
import time
from typing import TYPE_CHECKING

import click

from ioflt.cli import key_use, reporting
from ioflt.cli.hints import advising
from ioflt.cli.render import emit, json_option, printable, say
from ioflt.errors import KeyNotUsable, UsageError
from ioflt.types import KeyRef

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from ioflt.keys.kmip.provider import KmipProvider

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
    from ioflt.keys.kmip.criterion import criterion

    wanted = [criterion("Name", name)] if name is not None else []
    wanted += [criterion("State", state)] if state is not None else []
    for text in attributes:
        attribute, equals, value = text.partition("=")
        if not equals or not attribute:
            raise UsageError(f"no attribute: {text!r}; write NAME=TEXT")
        wanted.append(criterion(attribute, value))
    with _open(provider) as servers:
        ids = servers.call(lambda keys: keys.locate(wanted))

    def show() -> None:
        for key_id in ids:
            print(printable(key_id))

    emit(ids, show, as_json)


@key.command(short_help="End the use of a key for new data.")
@click.argument("provider")
@click.argument("key_id", metavar="KEY-ID")
@click.option("--reason", type=click.Choice(_REASONS), default="unspecified", show_default=True)
@json_option
def revoke(provider: str, key_id: str, reason: str, as_json: bool) -> None:
    """Revoke KEY-ID on the servers of PROVIDER.

    VMs that it protects still open as long as the servers hand it out, or keyd has it.
    """
    from ioflt.wire.kmip.enumerations import RevocationReasonCode

    code = RevocationReasonCode[reason.upper().replace("-", "_")]
    since = int(time.time()) if code == RevocationReasonCode.KEY_COMPROMISE else None
    about = reporting.key(KeyRef(provider, key_id))
    with _open(provider) as servers, reporting.told(about, ("key.state", None, f"revoked, {reason}")):
        servers.call(lambda keys: keys.revoke(key_id, code, since))
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
    from ioflt.keys.client import KeyClient

    revoke_it = f"if it is still active, end its use first: ioflt key revoke {shlex.join((provider, key_id))}"
    about = reporting.key(KeyRef(provider, key_id))
    with (
        _open(provider) as servers,
        advising(KeyNotUsable, "may not be used", revoke_it),
        reporting.told(about, ("key.state", None, "destroyed")),
    ):
        servers.call(lambda keys: keys.destroy(key_id))
    done = {"key": str(KeyRef(provider, key_id)), "destroyed": True}
    emit(done, lambda: say(f"{key_id} is destroyed"), as_json)
    with KeyClient.connect() as keyd:
        keyd.key_states([KeyRef(provider, key_id)])  # it hears that the key is gone, and drops a sealed copy


def _open(name: str) -> AbstractContextManager[KmipProvider]:
    from contextlib import contextmanager

    from ioflt import paths
    from ioflt.keys.kmip.provider import KmipProvider
    from ioflt.keys.kmip.store import KmipStore

    store = KmipStore(paths.find().own().ensure().providers)

    @contextmanager
    def opened() -> Iterator[KmipProvider]:
        provider = KmipProvider(store.load(name), store)
        try:
            yield provider
        finally:
            provider.close()

    return opened()
