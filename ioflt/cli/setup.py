"""`ioflt setup`: how this machine's keyd is administered."""

from __future__ import annotations

import click

from ioflt.cli.access_objects import is_known
from ioflt.cli.render import emit, json_option, say
from ioflt.cli.session import connect_keys
from ioflt.errors import NotFoundError, UsageError


@click.command(short_help="Separate the administration of keys and of VMs.")
@click.option("--separate-duties", is_flag=True, help="Nobody may administer both keys and encrypted VMs.")
@click.option("--key-admin", metavar="WHO", help="Who administers keys, key providers and policies.")
@click.option("--vm-admin", metavar="WHO", help="Who administers VMs: encrypts, decrypts, reads them.")
@json_option
def setup(separate_duties: bool, key_admin: str | None, vm_admin: str | None, as_json: bool) -> None:
    """Separate duties: the role administrator is taken from everyone, and its halves go to two users.

    \b
    key-duties  keys, key providers, encryption policies, datastores; no VM's content
    vm-duties   VMs and their content; no keys, no key providers

    Each may give on what he has. From then on no change is made by which one person, by himself or by
    his groups, would have both, and who comes to have both by his groups may neither. No command takes
    it back, and root of the machine is above it.
    """
    from ioflt import paths
    from ioflt.access import principals
    from ioflt.wire.keyd.access import SeparateDuties

    if not separate_duties or key_admin is None or vm_admin is None:
        raise UsageError("nothing to set up: name --separate-duties, --key-admin WHO and --vm-admin WHO")
    where = paths.find()
    if not (where.system or where.joined):
        raise UsageError("this keyd serves one user, who cannot be two: duties are separated by root's")
    both = principals.parse(key_admin), principals.parse(vm_admin)
    for who in both:
        if not is_known(who):  # nobody would have that half, and no command takes it back
            raise NotFoundError(f"no {who.kind} {who.name} on this machine")
    halves = str(both[0]), str(both[1])
    with connect_keys() as keys:
        keys.change_access(SeparateDuties(*halves))
    done = {"separate_duties": True, "key_admin": halves[0], "vm_admin": halves[1]}
    emit(
        done,
        lambda: say(f"{halves[0]} has key-duties, {halves[1]} has vm-duties; nobody is administrator"),
        as_json,
    )
