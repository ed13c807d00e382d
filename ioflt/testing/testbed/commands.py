"""`ioflt testbed`: make a test bed, switch its faults, end it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ioflt.cli.render import emit, facts, json_option, say, size, table
from ioflt.errors import UsageError
from ioflt.testing.testbed import guest
from ioflt.testing.testbed.bed import CLEAR, SERVICE, Bed
from ioflt.testing.testbed.faults import FAULTS, switch_off, switch_on
from ioflt.testing.testbed.scenario import SCENARIOS

_directory_option = click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default=Path("ioflt-testbed"),
    help="That of the bed (default: ioflt-testbed, here).",
)


@click.group()
def testbed() -> None:
    """Test beds for programs that back up VMs: a datastore, a key server, an encrypted VM; faults on demand.

    A bed is a directory with an $IOFLT_HOME of its own. Nothing in it is meant to be kept.
    """


@testbed.command(short_help="Make a test bed, and mount its VM.")
@click.option("--scenario", type=click.Choice(list(SCENARIOS)), default="kmip", help="What kind of bed.")
@_directory_option
@json_option
def up(scenario: str, directory: Path, as_json: bool) -> None:
    """Make a test bed: datastore, key server, and an encrypted VM with known checksums, mounted."""
    bed = Bed.up(directory, SCENARIOS[scenario])
    data = _description(bed)

    def text() -> None:
        facts(
            [
                ("datastore", f"{bed.datastore} (ciphertext)"),
                ("mount", f"{bed.mountpoint} (plaintext, as {SERVICE})"),
                ("VM", f"{bed.vm}: {guest.DISK}, {size(guest.SIZE)}"),
                ("checksums", bed.checksums),
                ("keys", "of this host" if data["kms"] is None else f"of a KMIP server at {data['kms']}"),
                ("use", f"export IOFLT_HOME={bed.home}"),
                ("faults", "ioflt testbed list; ioflt testbed fault NAME"),
                ("end", f"ioflt testbed down --directory {bed.directory}"),
            ]
        )

    emit(data, text, as_json)


@testbed.command()
@_directory_option
@json_option
def down(directory: Path, as_json: bool) -> None:
    """End a test bed, and remove its directory."""
    bed = _take(directory)
    bed.down()
    emit({"directory": str(bed.directory)}, lambda: say(f"{directory}: ended and removed"), as_json)


@testbed.command(short_help="Switch a fault on or off.")
@click.argument("name", type=click.Choice(list(FAULTS)), metavar="NAME")
@click.argument("state", default="on", metavar="[on|off|NUMBER]")
@_directory_option
@json_option
def fault(name: str, state: str, directory: Path, as_json: bool) -> None:
    """Switch the fault NAME on, with its NUMBER if it has one, or off."""
    bed = _take(directory)
    if state == "off":
        switch_off(bed, name)
    elif state == "on":
        switch_on(bed, name, None)
    elif state.isascii() and state.isdigit() and len(state) < 16:
        switch_on(bed, name, int(state))
    else:
        raise UsageError(f"on, off or a number, not {state[:80]!a}")
    data = {"fault": name, "on": state != "off"}
    emit(data, lambda: say(f"{name} is {'off' if state == 'off' else 'on'}"), as_json)


@testbed.command("list")
@json_option
def show(as_json: bool) -> None:
    """List the scenarios and the faults."""
    data = {
        "scenarios": {one.name: one.help for one in SCENARIOS.values()},
        "faults": {one.name: one.help for one in FAULTS.values()},
    }

    def text() -> None:
        table(("SCENARIO", ""), list(data["scenarios"].items()))
        print()
        table(("FAULT", ""), list(data["faults"].items()))

    emit(data, text, as_json)


def _take(directory: Path) -> Bed:
    """The bed; what commands do here from now on, they do in its $IOFLT_HOME."""
    bed = Bed(directory)
    os.environ["IOFLT_HOME"] = str(bed.home)
    return bed


def _description(bed: Bed) -> dict[str, object]:
    server = bed.state.server
    return {
        "directory": str(bed.directory),
        "scenario": bed.scenario.name,
        "home": str(bed.home),
        "datastore": str(bed.datastore),
        "mount": str(bed.mountpoint),
        "vm": str(bed.vm),
        "disk": str(bed.vm / guest.DISK),
        "extent": str(bed.vm / guest.EXTENT),
        "checksums": str(bed.checksums),
        "service": str(SERVICE),
        "clear_vm": CLEAR,
        "proxy": None if bed.state.proxy is None else str(bed.monitor),
        "kms": None if server is None else server.address,
    }
