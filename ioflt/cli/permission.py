"""`ioflt permission`: who has which role on what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ioflt.cli import offers
from ioflt.cli.access_objects import is_known, named
from ioflt.cli.possession import warn_of_kept_keys
from ioflt.cli.render import emit, json_option, printable, say, table, warn
from ioflt.cli.session import connect_keys
from ioflt.errors import NotFoundError

if TYPE_CHECKING:
    from ioflt.access.principals import Principal
    from ioflt.access.state import AccessState
    from ioflt.wire.keyd.access import Object


@click.group()
def permission() -> None:
    """Permissions: who has which role on what.

    \b
    WHO     user:NAME or NAME, group:NAME, service:NAME
    OBJECT  everything, folder:NAME, DIR (a datastore), DIR/VM;
            vm:ID or datastore:ID for one that is gone

    On a VM counts what is closest: a permission on the VM, on the folder that
    lists it, on its datastore, on the folder that lists that, on everything.
    There the user's own counts, else those of his groups together.
    """


@permission.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List the permissions, as far as you may see them."""
    with connect_keys() as keys:
        found = keys.access().permissions
    rows = [(each.principal, each.role, each.target) for each in found]
    shown = [
        {
            "who": str(each.principal),
            "role": each.role,
            "object": each.target.shown,
            "kind": str(each.target.kind),
            "id": each.target.id,
        }
        for each in found
    ]
    emit(shown, lambda: table(["WHO", "ROLE", "OBJECT"], rows), as_json)


@permission.command(short_help="Give someone a role on an object.")
@click.argument("who", metavar="WHO")
@click.argument("role", metavar="ROLE", shell_complete=offers.roles)
@click.argument("on", metavar="OBJECT")
@json_option
def grant(who: str, role: str, on: str, as_json: bool) -> None:
    """Give WHO the role ROLE on OBJECT and what is in it, in place of the role that WHO has on just that.

    You need Authorization.ModifyPermissions there, and every privilege of ROLE.
    """
    from ioflt.access import principals
    from ioflt.wire.keyd.access import Grant

    principal = principals.parse(who)
    target = named(on)
    with connect_keys() as keys:
        found = keys.access().role_named(role)
        keys.change_access(Grant(str(principal), found.id, target))
    if not is_known(principal):
        warn(f"this machine knows no {principal.kind} {principal.name}")
    done = {"who": str(principal), "role": found.id, "object": target.shown}
    emit(done, lambda: say(f"{principal} has {found.id} on {target.shown}"), as_json)


@permission.command(short_help="Take someone's role on an object.")
@click.argument("who", metavar="WHO")
@click.argument("on", metavar="OBJECT")
@json_option
def revoke(who: str, on: str, as_json: bool) -> None:
    """Take the role that WHO has on just OBJECT. What WHO has on what it is in counts from then on.

    Who could read an encrypted VM may have kept its data keys; only new ones end that (vm recrypt --deep).
    """
    from ioflt.access import principals
    from ioflt.wire.keyd.access import Revoke

    principal = principals.parse(who)
    target = named(on)
    with connect_keys() as keys:
        state = keys.access()
        keys.change_access(Revoke(str(principal), target))
    role = _role_on(state, principal, target)
    held = warn_of_kept_keys(principal, state.role(role), target)
    done = {"who": str(principal), "role": role, "object": target.shown, "had_data_keys": held}
    emit(done, lambda: say(f"{principal} has {role} on {target.shown} no longer"), as_json)


@permission.command(short_help="Whether someone has a privilege, and why.")
@click.argument("who", metavar="WHO")
@click.argument("privilege", metavar="PRIVILEGE", shell_complete=offers.privileges)
@click.argument("on", metavar="OBJECT")
@json_option
def explain(who: str, privilege: str, on: str, as_json: bool) -> None:
    """Say whether WHO has PRIVILEGE on OBJECT, and which permission decides."""
    from ioflt.access import principals, privileges

    principal, asked = principals.parse(who), privileges.parse(privilege)
    target = named(on)
    with connect_keys() as keys:
        told = keys.explain_access(str(principal), asked, target)
    done = {
        "who": str(principal),
        "privilege": str(asked),
        "object": target.shown,
        "allowed": told.allowed,
        "why": told.why,
    }
    emit(done, lambda: print(printable(f"{'yes' if told.allowed else 'no'}: {told.why}")), as_json)


def _role_on(state: AccessState, principal: Principal, target: Object) -> str:
    """Raises NotFoundError."""
    for each in state.permissions:
        if (each.principal, each.target.kind, each.target.id) == (principal, target.kind, target.id):
            return each.role
    raise NotFoundError(f"{principal} has no permission on {target.shown}")
