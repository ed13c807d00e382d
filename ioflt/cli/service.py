"""`ioflt service`: principals that are no users of this machine."""

from __future__ import annotations

from pathlib import Path

import click

from ioflt.cli.possession import warn_of_kept_keys
from ioflt.cli.render import emit, json_option, say, table
from ioflt.cli.session import connect_keys
from ioflt.errors import CorruptDataError


@click.group()
def service() -> None:
    """Services: principals that are no users of this machine, such as a backup program.

    They get permissions as service:NAME.
    """


@service.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List the services."""
    with connect_keys() as keys:
        found = keys.access().services
    rows = [(each.name, each.certificate or "") for each in found]
    emit(
        [{"service": each.name, "certificate": each.certificate} for each in found],
        lambda: table(["SERVICE", "CERTIFICATE (SHA-256)"], rows) if rows else say("no services"),
        as_json,
    )


@service.command(short_help="Make a service.")
@click.argument("name")
@click.option(
    "--certificate",
    metavar="FILE",
    type=click.Path(readable=False, path_type=Path),
    help="It is known by this client certificate (PEM).",
)
@json_option
def create(name: str, certificate: Path | None, as_json: bool) -> None:
    """Make the service NAME."""
    from ioflt.wire.keyd.access import CreateService

    shown = None if certificate is None else _fingerprint(certificate)
    with connect_keys() as keys:
        keys.change_access(CreateService(name, shown))
    done = {"service": name, "certificate": shown}
    emit(done, lambda: say(f"made the service {name}"), as_json)


@service.command(short_help="Remove a service.")
@click.argument("name")
@json_option
def remove(name: str, as_json: bool) -> None:
    """Remove the service NAME and its permissions."""
    from ioflt.access.principals import Kind, Principal
    from ioflt.wire.keyd.access import RemoveService

    with connect_keys() as keys:
        state = keys.access()
        keys.change_access(RemoveService(name))
    for each in state.permissions:
        if each.principal == Principal(Kind.SERVICE, name):
            warn_of_kept_keys(each.principal, state.role(each.role), each.target, where=f"on {each.target}")
    emit({"service": name}, lambda: say(f"removed the service {name}, and what was given to it"), as_json)


def _fingerprint(path: Path) -> str:
    """SHA-256 of the first certificate in the file. Raises CorruptDataError, NotFoundError, StorageError."""
    import hashlib

    from ioflt.crypto import certificates
    from ioflt.keys import files

    pem = files.read(path, 1 << 16).decode(errors="replace")
    try:
        found = certificates.read(pem)
    except CorruptDataError as error:
        error.file = error.file or str(path)
        raise
    return hashlib.sha256(found[0].der).hexdigest()
