"""`ioflt attest`: a signed report of a datastore, for an auditor who has a public key and no ioflt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ioflt.cli.exits import Exit
from ioflt.cli.render import describe, emit, json_option, progress, warn
from ioflt.cli.session import connect_keys, event_files, warning_of_record
from ioflt.errors import UsageError

if TYPE_CHECKING:
    from ioflt.audit.reader import LogFile, Verified
    from ioflt.audit.uses import UsesOfVms
    from ioflt.datastore.attest import AttestedDatastore, Known
    from ioflt.keys.client import KeyClient


@dataclass(frozen=True, slots=True)
class _Written:
    """What the report says in short. `head`: of the event log, as keyd signed it."""

    report: str
    sha256: str
    head: str
    vms: int
    containers: int
    sealed: int
    clear: int
    unreadable: list[str]
    events_sound: bool


@click.command()
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--out",
    metavar="OUT",
    type=click.Path(readable=False, path_type=Path),
    help="Write the report to the new file OUT.",
)
@click.option(
    "--public-key", is_flag=True, help="Print the key that verifies reports of this machine, in PEM."
)
@json_option
def attest(directory: Path | None, out: Path | None, public_key: bool, as_json: bool) -> None:
    """Report on the datastore, for an auditor; signed by this machine's keyd.

    Which files are ciphertext, by their own bytes; what shows of them all the same, and what is clear; keys
    and policies; who could read each VM, and who had its data keys, by the event log; that log's head.

    Exits with 13 where a VM cannot be looked at: the report says which and why.

    tools/verify_attest.py verifies a report and compares a datastore with it, with Python, openssl and
    cryptsetup alone. Give the public key to the auditor once, in person.
    """
    if public_key:
        if directory is not None or out is not None:
            raise UsageError("--public-key goes alone")
        with connect_keys() as keys:
            pem = keys.attest_key()
        emit({"public_key": pem}, lambda: click.echo(pem, nl=False), as_json)
        return
    if directory is None or out is None:
        raise UsageError("a report is about a datastore, and written to a file: ioflt attest DIR --out OUT")
    written = _attest(directory, out)
    emit(written, lambda: describe(written), as_json)
    for name in written.unreadable:
        warn(f"{directory / name}: cannot be looked at; the report says so, and nothing else of it")
    if written.unreadable:
        raise click.exceptions.Exit(Exit.FOUND)


def _attest(directory: Path, out: Path) -> _Written:
    from ioflt.audit import attestation
    from ioflt.crypto.mac import sha256
    from ioflt.datastore import attest as attesting
    from ioflt.datastore.volume import Volume
    from ioflt.keys import files

    with (
        connect_keys() as keys,
        Volume.open(directory, keys, read_only=True, locked=warning_of_record(directory)) as volume,
        progress(f"looking at {directory}", None, files=True) as bar,
    ):
        uses, log = _events()
        found = attesting.look(volume, _known(keys, uses), bar.advance)
        report = attestation.report(_content(found, log))
        stated, signature = keys.attest(sha256(report))
    files.create(out, attestation.document(stated, signature, report))
    return _Written(
        str(out),
        sha256(report).hex(),
        attestation.head_of(stated),
        len(found.vms),
        found.count(attesting.CONTAINER),
        found.count(attesting.SEALED),
        found.count(attesting.CLEAR),
        found.unreadable,
        not log.findings,
    )


def _events() -> tuple[UsesOfVms, Verified]:
    """Who used what, and whether the log is whole; read once."""
    from ioflt.access.operations import OPERATIONS
    from ioflt.audit import reader
    from ioflt.audit.uses import UsesOfVms

    uses = UsesOfVms({name for name, operation in OPERATIONS.items() if operation.hands_out})

    def noted(files: Iterable[LogFile]) -> Iterator[LogFile]:
        for file in files:
            for each in reader.read([file]):
                uses.note(each.event)
            yield file

    with event_files() as files:
        return uses, reader.verify(noted(files))


def _known(keys: KeyClient, uses: UsesOfVms) -> Known:
    """The permissions, and everybody whom they name, users with the groups that they are in here."""
    from ioflt.datastore.attest import Known
    from ioflt.keyd import accounts

    state = keys.access()
    named = sorted({permission.principal for permission in state.permissions})
    return Known(state, [accounts.caller_named(each) for each in named], uses)


def _content(found: AttestedDatastore, log: Verified) -> dict[str, object]:
    import os

    import msgspec

    import ioflt

    return {
        "format": 1,
        "host": os.uname().nodename,
        "ioflt": ioflt.__version__,
        "datastore": msgspec.to_builtins(asdict(found)),
        "events": {
            "lines": log.lines,
            "head": None if log.head is None else str(log.head),
            "findings": [asdict(each) for each in log.findings],
        },
    }
