"""`ioflt role`: sets of privileges that permissions give."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click

from ioflt.cli import offers
from ioflt.cli.render import emit, facts, json_option, say, table
from ioflt.cli.session import connect_keys

if TYPE_CHECKING:
    from ioflt.access.roles import Role

_Command = TypeVar("_Command", bound=Callable[..., object])


def _privilege_option(command: _Command) -> _Command:
    option = click.option(
        "--privilege",
        "privileges",
        metavar="ID",
        multiple=True,
        shell_complete=offers.privileges,
        help="It has this one, such as Cryptographer.Access; again for each further one.",
    )
    return option(command)


@click.group()
def role() -> None:
    """Roles: sets of privileges, for `ioflt permission grant`."""


@role.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List the roles."""
    with connect_keys() as keys:
        roles = keys.access().all_roles()
    rows = [(each.id, each.shown, len(each.privileges)) for each in roles]
    emit(
        [_shown(each) for each in roles],
        lambda: table(["ROLE", "NAME", "PRIVILEGES"], rows),
        as_json,
    )


@role.command(short_help="Show what a role allows.")
@click.argument("name", metavar="ROLE", shell_complete=offers.roles)
@json_option
def show(name: str, as_json: bool) -> None:
    """Show the privileges of ROLE, and what each allows."""
    from ioflt.access.privileges import MEANING

    with connect_keys() as keys:
        found = keys.access().role_named(name)

    def text() -> None:
        facts([(each, MEANING[each]) for each in sorted(found.privileges)])

    emit(_shown(found), text, as_json)


@role.command(short_help="Make a role.")
@click.argument("name", metavar="ROLE")
@_privilege_option
@json_option
def create(name: str, privileges: tuple[str, ...], as_json: bool) -> None:
    """Make ROLE, which has the privileges named, and System.Read.

    A role is never changed; make another, and remove this one.
    """
    _create(name, privileges, None, as_json)


@role.command(short_help="Make a role like another.")
@click.argument("source", metavar="ROLE", shell_complete=offers.roles)
@click.argument("name", metavar="NEW")
@_privilege_option
@json_option
def clone(source: str, name: str, privileges: tuple[str, ...], as_json: bool) -> None:
    """Make the role NEW, which has what ROLE has and the privileges named."""
    _create(name, privileges, source, as_json)


@role.command(short_help="Remove a role that nobody has.")
@click.argument("name", metavar="ROLE", shell_complete=offers.roles)
@json_option
def remove(name: str, as_json: bool) -> None:
    """Remove ROLE. Refused while somebody has it, and for the built-in ones."""
    from ioflt.wire.keyd.access import RemoveRole

    with connect_keys() as keys:
        found = keys.access().role_named(name)
        keys.change_access(RemoveRole(found.id))
    emit({"role": found.id}, lambda: say(f"removed the role {found.id}"), as_json)


def _create(name: str, privileges: tuple[str, ...], like: str | None, as_json: bool) -> None:
    from ioflt.wire.keyd.access import CreateRole

    with connect_keys() as keys:
        keys.change_access(CreateRole(name, privileges, like))
        made = keys.access().role_named(name)
    emit(_shown(made), lambda: say(f"made the role {made.id}"), as_json)


def _shown(found: Role) -> dict[str, object]:
    return {"role": found.id, "name": found.shown, "privileges": sorted(found.privileges)}
