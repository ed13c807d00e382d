"""`ioflt backup export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ioflt.cli.render import json_option, moment, say, warn
from ioflt.cli.session import home_argument
from ioflt.errors import UsageError

if TYPE_CHECKING:
    from ioflt.backup.export import Exported, Transport

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: A week: longer than a disk takes.
_MAX_S = 7 * 86400


def _seconds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    number, unit = value[:-1], value[-1:]
    if not (number.isascii() and number.isdecimal()) or unit not in _UNITS:
        raise UsageError(f"not a time such as 30s, 10m, 8h or 1d: {ascii(value)[:40]}")
    seconds = int(number) * _UNITS[unit]
    if not 0 < seconds <= _MAX_S:
        raise UsageError("a ticket is good for at least a second, and for a week at most")
    return seconds


@click.command()
@home_argument
@click.argument("disk", metavar="DISK")
@click.option(
    "--transport",
    type=click.Choice(["nbd", "nbdssl"]),
    default="nbd",
    show_default=True,
    help="Without TLS, or by it.",
)
@click.option(
    "--listen",
    metavar="ADDRESS:PORT",
    help="Not on a unix socket, or any port of 127.0.0.1. Port 0: any that is free.",
)
@click.option("--for", "principal", metavar="WHO", help="For that user or service, with his permissions.")
@click.option(
    "--ticket-time",
    metavar="TIME",
    callback=_seconds,
    help="How long the ticket is good: 30s, 10m, 8h. [default: 1h]",
)
@click.option(
    "--certificates",
    metavar="DIR",
    type=click.Path(readable=False, path_type=Path),
    help="TLS by certificates, for a service: its client-cert.pem, our server-cert.pem and server-key.pem.",
)
@click.option(
    "--since", metavar="ID", help="Tell clients what changed since that change id, by a dirty bitmap."
)
@json_option
def export(
    home: tuple[Path, str],
    disk: str,
    transport: Transport,
    listen: str | None,
    principal: str | None,
    ticket_time: int | None,
    certificates: Path | None,
    since: str | None,
    as_json: bool,
) -> None:
    """Serve DISK of a VM over NBD, read-only, as a guest sees it; in the foreground, until Ctrl-C or SIGTERM.

    DISK is the file of the VM that its VMX names, as web01.vmdk. It is decrypted by a mount of its own, which
    nobody else sees. The URI is printed once it is served. With nbd that is a unix socket that only the user
    opens for whom it is; with nbdssl TLS is required, by a one-time ticket, a key in a file: the export ends
    with the last connection of the first client that has it, and when its time is over. It also ends when
    whom it is for may not read the VM any more, and when keyd is locked.

    With --since, NBD clients see in the metadata context qemu:dirty-bitmap:changed which blocks of 64 KiB
    changed since the ID of `ioflt cbt query`.
    """
    from ioflt.backup import export as exports
    from ioflt.backup.listening import Address
    from ioflt.cli.mount import parse_visitor
    from ioflt.format.cbt import changeid

    if ticket_time is not None and (transport != "nbdssl" or certificates is not None):
        raise UsageError("there is a ticket with the transport nbdssl, where no certificates are given")
    directory, name = home
    asked = exports.Asked(
        directory,
        name,
        disk,
        transport,
        None if listen is None else Address.parse(listen),
        parse_visitor(principal),
        certificates,
        ticket_time or exports.TICKET_S,
        None if since is None else changeid.parse(since),
    )
    reason = exports.run(asked, lambda done: _show(done, as_json), say)
    say(f"the export ended: {reason}")


def _show(done: Exported, as_json: bool) -> None:
    if done.transport == "nbd" and done.socket is None:
        warn("every user of this machine can read the disk on that port: use nbdssl, or a unix socket")
    if as_json:
        import msgspec

        print(json.dumps(msgspec.structs.asdict(done)), flush=True)
        return
    print(done.uri, flush=True)
    if done.psk_file is not None:
        say(f"a one-time ticket, good until {moment(done.until)}: {done.psk_file}")
    say(f"exports {done.export} until Ctrl-C")
