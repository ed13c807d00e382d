"""`ioflt folder`: sets of datastores and VMs that permissions are given on together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ioflt.cli import offers
from ioflt.cli.access_objects import named
from ioflt.cli.possession import warn_of_kept_keys
from ioflt.cli.render import describe, emit, json_option, say, table
from ioflt.cli.session import connect_keys, warn_unknown_provider

if TYPE_CHECKING:
    from ioflt.access.state import AccessState, Folder, Permission


@click.group()
def folder() -> None:
    """Folders: tenants, each a set of datastores and VMs.

    Permissions are given on folder:NAME. Who has Authorization.ModifyPermissions
    there administers it: he grants there and on what it lists, what he has himself.
    """


@folder.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List the folders."""
    with connect_keys() as keys:
        state = keys.access()
    rows = [(each.name, len(each.members)) for each in state.folders]
    emit(
        [_shown(state, each) for each in state.folders],
        lambda: table(["FOLDER", "LISTS"], rows) if rows else say("no folders"),
        as_json,
    )


@folder.command(short_help="Show what a folder lists, and who may what in it.")
@click.argument("name", shell_complete=offers.folders)
@json_option
def show(name: str, as_json: bool) -> None:
    """Show what the folder NAME lists, and the permissions on it."""
    with connect_keys() as keys:
        state = keys.access()
    shown = _shown(state, state.folder(name))
    emit(shown, lambda: describe(shown), as_json)


@folder.command(short_help="Make a folder.")
@click.argument("name")
@click.option("--provider", metavar="P", help="Whose keys new VMs in its datastores get.")
@click.option("--events/--no-events", help="Whether it has an event log of its own.")
@json_option
def create(name: str, provider: str | None, events: bool, as_json: bool) -> None:
    """Make the folder NAME, which lists nothing.

    A new VM in a datastore that it lists gets a key of the folder's provider, unless
    its storage policy names another one, or you do. With --events, `ioflt events
    --folder NAME` shows what happens in it, and nothing else.
    """
    from ioflt.wire.keyd.access import CreateFolder

    with connect_keys() as keys:
        keys.change_access(CreateFolder(name, provider, events))
        warn_unknown_provider(keys, provider)
    made = {"folder": name, "provider": provider, "events": events}
    emit(made, lambda: say(f"made the folder {name}"), as_json)


@folder.command(name="set", short_help="Choose a folder's key provider, and its event log.")
@click.argument("name", shell_complete=offers.folders)
@click.option("--provider", metavar="P", help="Whose keys new VMs in its datastores get.")
@click.option("--events/--no-events", default=None, help="Whether it has an event log of its own.")
@json_option
def set_(name: str, provider: str | None, events: bool | None, as_json: bool) -> None:
    """Have new VMs in the datastores of the folder NAME get keys of that provider, or what
    happens in it go into an event log of its own, too. What you do not name stays.

    Without any option it has no provider of its own.
    """
    from msgspec import UNSET

    from ioflt.wire.keyd.access import SetFolder

    stays = provider is None and events is not None
    change = SetFolder(name, UNSET if stays else provider, UNSET if events is None else events)
    with connect_keys() as keys:
        keys.change_access(change)
        warn_unknown_provider(keys, provider)
        now = keys.access().folder(name)

    def show() -> None:
        if not stays:
            say(f"the keys of new VMs in {name}: of {provider or 'no provider of its own'}")
        if events is not None:
            say(f"{name}: {'has an' if events else 'no'} event log of its own from now on")

    emit({"folder": name, "provider": now.provider, "events": now.events}, show, as_json)


@folder.command(short_help="Put a datastore or VM into a folder.")
@click.argument("name", shell_complete=offers.folders)
@click.argument("member", metavar="OBJECT")
@json_option
def add(name: str, member: str, as_json: bool) -> None:
    """Have the folder NAME list OBJECT: DIR (a datastore) or DIR/VM. It is in no other folder then."""
    from ioflt.wire.keyd.access import AddMember

    target = named(member)
    with connect_keys() as keys:
        keys.change_access(AddMember(name, target))
    done = {"folder": name, "object": target.shown}
    emit(done, lambda: say(f"the folder {name} lists {target.shown}"), as_json)


@folder.command(short_help="Take a datastore or VM out of a folder.")
@click.argument("name", shell_complete=offers.folders)
@click.argument("member", metavar="OBJECT")
@json_option
def remove(name: str, member: str, as_json: bool) -> None:
    """Have the folder NAME list OBJECT no longer."""
    from ioflt.wire.keyd.access import RemoveMember

    target = named(member)
    with connect_keys() as keys:
        keys.change_access(RemoveMember(name, target))
    done = {"folder": name, "object": target.shown}
    emit(done, lambda: say(f"the folder {name} lists {target.shown} no longer"), as_json)


@folder.command(short_help="Remove a folder.")
@click.argument("name", shell_complete=offers.folders)
@json_option
def delete(name: str, as_json: bool) -> None:
    """Remove the folder NAME and the permissions on it. What it lists stays where it is,
    and so does its event log: for who may read all events.
    """
    from ioflt.wire.keyd.access import RemoveFolder

    with connect_keys() as keys:
        state = keys.access()
        keys.change_access(RemoveFolder(name))
    for each in _on(state, name):
        warn_of_kept_keys(each.principal, state.role(each.role), each.target, where="in what it listed")
    emit({"folder": name}, lambda: say(f"removed the folder {name}, and what was given on it"), as_json)


def _on(state: AccessState, name: str) -> tuple[Permission, ...]:
    """What is given on the folder of that name."""
    from ioflt.access import objects

    return state.on(objects.folder(name))


def _shown(state: AccessState, found: Folder) -> dict[str, object]:
    return {
        "folder": found.name,
        "provider": found.provider,
        "events": found.events,
        "lists": [
            {"kind": str(each.kind), "object": each.shown, "id": each.id} for each in sorted(found.members)
        ],
        "permissions": [{"who": str(each.principal), "role": each.role} for each in _on(state, found.name)],
    }
