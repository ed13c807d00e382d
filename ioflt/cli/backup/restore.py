"""`ioflt backup restore`."""

from __future__ import annotations

import dataclasses
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ioflt.cli import offers, reporting
from ioflt.cli.backup.destination import destination_argument, open_destination
from ioflt.cli.backup.watching import progress_option, watched
from ioflt.cli.hints import advising
from ioflt.cli.render import describe, emit, json_option, say, warn
from ioflt.cli.session import connect_keys, logged, open_volume
from ioflt.errors import AuthenticationError, DeniedError, ExistsError, KeyUnavailableError, UsageError

if TYPE_CHECKING:
    from ioflt.backup.shelf import Shelf
    from ioflt.datastore.volume import Volume
    from ioflt.format.manifest.model import Document


#: The kind of a destination.
CIPHERTEXT: Final = "ciphertext"

_AS_IT_WAS: Final = (
    "ciphertext is put back as it was, whatever a policy says: restore it, then ioflt policy assign"
)


@click.command()
@destination_argument
@click.argument("target", metavar="TARGET", type=click.Path(readable=False, path_type=Path))
@click.option(
    "--vm",
    metavar="NAME",
    shell_complete=offers.backed_up,
    help="The VM whose backup it is, where DEST has several.",
)
@click.option("--as", "name", metavar="NAME", help="The new VM's name; else the one that it had.")
@click.option(
    "--at",
    "moment",
    metavar="TIME",
    shell_complete=offers.points,
    help="The newest point up to then; else the newest.",
)
@click.option(
    "--policy", metavar="NAME", shell_complete=offers.policies, help="The storage policy of the new VM."
)
@progress_option
@json_option
def restore(
    destination: Path,
    target: Path,
    vm: str | None,
    name: str | None,
    moment: str | None,
    policy: str | None,
    lines: bool,
    as_json: bool,
) -> None:
    """Make a VM anew in the datastore TARGET from a backup in DEST.

    It is encrypted on the way in, as its policy says: that given, else the one that it had, if this host
    knows it, else TARGET's. It gets the key that it had, if the provider still has it and you may use it;
    else a new one. Disks come back under their names: VMDKs as thin flat ones, qcow2 without backing files.

    A backup made with --ciphertext is put back as it was stored, under its old keys, which need not be
    there; `ioflt vm register` vouches for it, where this is to be done and you may not.

    Files have the permissions that they had; where root restores what was backed up on this machine, the
    owners, too.

    No VM is overwritten. Interrupted, the same command goes on where it was.
    """
    from ioflt.backup import listing
    from ioflt.backup import restore as restoring
    from ioflt.datastore import policies

    with (
        advising(ExistsError, "is there already", "give it another name: --as NAME"),
        open_destination(destination) as found,
        open_volume(target, keyless=found.kind == CIPHERTEXT) as volume,
        found.shelf(vm or listing.sole(found)) as shelf,
        shelf.steady(),
    ):
        document = shelf.document(listing.at(shelf, moment))
        # Elsewhere numbers are others' users.
        owners = _check(shelf, document, destination) and os.geteuid() == 0
        manifest = document.manifest
        new = name or manifest.vm
        if found.kind == CIPHERTEXT:
            if policy is not None:
                raise UsageError(_AS_IT_WAS, file=destination)
            _put_back(shelf, document, volume, new, owners, lines, as_json)
            return
        given = None if policy is None else policies.to_assign(volume.keys, policy)
        encrypts = (given or restoring.becomes(volume, manifest)).encrypts
        told = reporting.told(
            reporting.datastore(target),
            ("restore", None, os.path.join(os.path.abspath(destination), manifest.vm, manifest.point)),
            ("name", None, new),
            part="" if encrypts else "a clear VM",
        )
        total = 2 * sum(disk.stored for disk in manifest.disks) if manifest.full else None
        with logged(), told, watched(f"restoring {new}", total, lines) as bar:
            made = restoring.restore(shelf, manifest, volume, new, given, bar.advance, owners=owners)

    shown = dataclasses.asdict(made) | _signer(document)

    def text() -> None:
        say(f"{target / new}: restored")
        describe(shown)

    emit(shown, text, as_json)


def _put_back(
    shelf: Shelf, document: Document, volume: Volume, name: str, owners: bool, lines: bool, as_json: bool
) -> None:
    """From a point of ciphertext; then vouch for it, if need be and this may be done."""
    from ioflt.backup import putback
    from ioflt.datastore.volume import Volume
    from ioflt.keys.client import KeyClient

    manifest = document.manifest
    place = Path(volume.path) / name
    told = reporting.told(
        reporting.datastore(volume.path),
        ("restore", None, os.path.join(shelf.path, manifest.point)),
        ("name", None, name),
        part="of ciphertext",
    )
    total = 2 * sum(disk.stored for disk in manifest.disks) if manifest.full else None
    with told, watched(f"restoring {name}", total, lines) as bar:
        files = putback.put_back(shelf, manifest, volume, name, bar.advance, owners=owners)
    command = f"ioflt vm register {shlex.quote(str(place))} --accept-rollback"
    problem = None
    try:
        with (
            KeyClient.connect(operation="vm register") as keys,
            logged(),
            Volume.open(volume.path, keys) as own,
        ):
            problem = putback.vouch(own, name)
    except DeniedError as error:
        problem = error.message
    except KeyUnavailableError as error:  # nor is it known whether this host has seen a newer one
        say(f"{place}: opens once its keys can be had ({error.message}); is it refused then: {command}")
    if problem is not None:
        warn(f"{place}: put back, but it opens for nobody yet: {problem}; once it may: {command}")
    shown = {
        "home": name,
        "point": manifest.point,
        "state": manifest.state,
        "policy": manifest.policy,
        "keys": [f"{key.provider}:{key.key_id}" for key in manifest.keys],
        "kept_key": True,
        "files": files,
        **_signer(document),
    }

    def text() -> None:
        say(f"{place}: put back as it was stored")
        describe(shown)

    emit(shown, text, as_json)


def _signer(document: Document) -> dict[str, object]:
    """Who had the point signed, by the word of his machine."""
    from ioflt.backup import sealing

    who, when = sealing.attested(document)
    return {"signed_by": who, "signed_at": when}


def _check(shelf: Shelf, document: Document, destination: Path) -> bool:
    """It, and all that it builds on, is what somebody signed: whether this machine; else with a warning."""
    from ioflt.backup import sealing

    with connect_keys() as keys:
        own = keys.manifest_key()
    ours = True
    for each in sealing.behind(shelf, document):
        try:
            sealing.check(each, own)
        except AuthenticationError as error:
            if error.reason != sealing.STRANGER:
                raise
            ours = False
            who, when = sealing.attested(each)
            point = each.manifest.point
            told = f"{point} was signed on another machine than this one, by its word for {who} at {when}"
            look = "ioflt backup verify --public-key looks whether by the one that you know"
            warn(f"{destination}: {told}; {look}")
    return ours
