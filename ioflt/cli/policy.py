"""`ioflt policy`: storage policies, what has them, and where that departs from them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from ioflt.cli import offers
from ioflt.cli.exits import Exit
from ioflt.cli.render import describe, emit, json_option, printable, progress, say, table, warn
from ioflt.cli.session import connect_keys, directory_argument, open_volume, warn_unknown_provider
from ioflt.cli.vm import force_option, open_vms, total
from ioflt.errors import BusyError

if TYPE_CHECKING:
    from ioflt.datastore.compliance import Found
    from ioflt.policy.model import StoragePolicy
    from ioflt.types import HomeState

_Provisioning = Literal["thick", "thin"]
_Command = TypeVar("_Command", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the options of a new policy say; None: nothing."""

    description: str | None
    encrypts: bool | None
    cleartext_filters: bool | None
    provider: str | None
    provisioning: _Provisioning | None
    integrity: bool | None
    cbt: bool | None
    recovery_slot: bool | None


_OPTIONS = (
    click.option("--description", metavar="TEXT", help="What it is for."),
    click.option(
        "--encrypt/--clear", "encrypts", default=None, help="Whether VMs that have it are encrypted."
    ),
    click.option(
        "--cleartext-filters/--no-cleartext-filters",
        default=None,
        help="Whether filters above the encryption may see clear text (AllowCleartextFilters).",
    ),
    click.option("--provider", metavar="NAME", help="Whose keys VMs have; else the datastore's provider."),
    click.option("--thick", "provisioning", flag_value="thick", help="New files are filled at once."),
    click.option("--thin", "provisioning", flag_value="thin", help="New files have holes."),
    click.option("--integrity/--no-integrity", default=None, help="Changed ciphertext is found."),
    click.option("--cbt/--no-cbt", default=None, help="Changed blocks are tracked."),
    click.option(
        "--recovery-slot/--no-recovery-slot",
        default=None,
        help="Each file opens by a recovery passphrase, too.",
    ),
)


def _policy_options(command: _Command) -> _Command:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group()
def policy() -> None:
    """Storage policies. A VM is encrypted because its policy says so; a datastore's is that of new VMs."""


@policy.command(name="list", short_help="List the storage policies.")
@json_option
def list_(as_json: bool) -> None:
    """List the storage policies of this machine: those that come with ioflt first."""
    from ioflt.datastore import policies

    with connect_keys() as keys:
        found = [_shown(one) for one in policies.every(keys)]

    def text() -> None:
        table(
            ("POLICY", "VMS ARE", "FILTERS", "KEYS FROM", "DESCRIPTION"),
            [
                (
                    one["name"],
                    "encrypted" if one["encrypts"] else "clear",
                    ", ".join(item["id"] for item in one["filters"]),
                    one["provider"] or "",
                    one["description"],
                )
                for one in found
            ],
        )

    emit(found, text, as_json)


@policy.command(short_help="Show one storage policy.")
@click.argument("name", metavar="POLICY", shell_complete=offers.policies)
@json_option
def show(name: str, as_json: bool) -> None:
    """Show the storage policy POLICY: its name or its id, here and wherever a policy is named."""
    from ioflt.datastore import policies

    with connect_keys() as keys:
        found = _shown(policies.find(keys, name))
    _emit(found, as_json)


@policy.command(short_help="Make a policy.")
@click.argument("name", metavar="NAME")
@_policy_options
@json_option
def create(name: str, as_json: bool, **asked: object) -> None:
    """Make the storage policy NAME. It encrypts, unless --clear is given.

    A policy may ask for what this version does not have, such as changed block tracking: it is not assigned
    then, and `ioflt policy check` names what is missing.
    """
    from ioflt.crypto.rng import new_uuid
    from ioflt.policy.model import StoragePolicy

    asked["encrypts"] = asked["encrypts"] is not False
    _add(_with(StoragePolicy(name, new_uuid()), asked), as_json)


@policy.command(short_help="Make a policy like another one.")
@click.argument("name", metavar="POLICY", shell_complete=offers.policies)
@click.argument("new_name", metavar="NAME")
@_policy_options
@json_option
def clone(name: str, new_name: str, as_json: bool, **asked: object) -> None:
    """Make the storage policy NAME, like POLICY but for what the options say. No policy is ever edited."""
    from ioflt.crypto.rng import new_uuid
    from ioflt.datastore import policies

    with connect_keys() as keys:
        found = policies.find(keys, name)
    _add(_with(replace(found, name=new_name, id=new_uuid()), asked), as_json)


@policy.command(short_help="Forget a policy.")
@click.argument("name", metavar="POLICY", shell_complete=offers.policies)
@click.option("--force", is_flag=True, help="Although something has it, which it then departs from.")
@json_option
def remove(name: str, force: bool, as_json: bool) -> None:
    """Forget the storage policy POLICY. Refused while something opened on this machine before has it.

    What has it stays encrypted, or clear, as it is.
    """
    from ioflt.datastore import policies, seen

    with connect_keys() as keys:
        name = policies.find(keys, name).name
    found = seen.survey()
    used = [one.path for one in found.protected if one.policy == name]
    for path in used:
        warn(f"{path}: has the policy {name}")
    for path, reason in found.unknown:
        warn(f"{path}: unknown whether it has this policy: {reason}")
    if used and not force:
        error = BusyError(f"the policy {name} is in use")
        error.add_note(
            f"give those another one: ioflt policy assign POLICY {shlex.quote(used[0])}; or --force"
        )
        raise error
    with connect_keys() as keys:
        keys.remove_policy(name)
    emit({"policy": name, "used_by": used}, lambda: say(f"{name}: removed"), as_json)


@policy.command(short_help="Give a policy to a VM or a datastore.")
@click.argument("name", metavar="POLICY", shell_complete=offers.policies)
@click.argument("target", metavar="DIR[/VM]", type=click.Path(readable=False, path_type=Path))
@force_option
@json_option
def assign(name: str, target: Path, force: bool, as_json: bool) -> None:
    """Give POLICY to the powered-off VM DIR/VM: one that encrypts encrypts it, another one decrypts it.

    Or to the datastore DIR: VMs that are made in it get it from now on; those that are there keep theirs.

    A VM that is encrypted already keeps its keys and its files as they are, and may run meanwhile. If the
    policy asks for others, `ioflt policy check` says which command makes them.
    """
    from ioflt.cli import places

    departed: list[Found] = []
    if places.is_datastore(target):
        policy, state = _to_datastore(name, target)
    else:
        policy, state, departed = _to_vm(name, target, force=force)
    done = {"path": str(target), "policy": policy, "state": state.value}
    emit(done, lambda: say(f"{target}: has the policy {policy}, {state.value}"), as_json)
    for one in departed:  # what is encrypted keeps its keys and files
        mend = "" if one.mend is None else f": {one.mend}"
        warn(f"{one.what}: wanted {one.wanted}, found {one.found}{mend}")


@policy.command()
@directory_argument
@json_option
def check(directory: Path, as_json: bool) -> int:
    """Compare the datastore DIR and its VMs with their policies. Names each departure, and what mends it.

    Exits with 0 only if there is none, with 13 if there is.
    """
    from ioflt.datastore import compliance

    with (
        open_volume(directory, read_only=True, keyless=True) as volume,
        progress(f"checking {directory}", None, files=True) as bar,
    ):
        found = compliance.look(volume, bar.advance)

    def text() -> None:
        for one in found:
            print(printable(f"{one.path}: {one.what}: wanted {one.wanted}, found {one.found}"))
            if one.mend is not None:
                print(printable(f"    {one.mend}"))

    emit(found, text, as_json)
    return Exit.FOUND if found else Exit.OK


def _to_datastore(name: str, target: Path) -> tuple[str, HomeState]:
    """The policy's name, and what new VMs are."""
    from ioflt.datastore import assign as assigning
    from ioflt.datastore import policies

    with open_volume(target) as volume:
        policy = policies.to_assign(volume.keys, name)
        assigning.to_datastore(volume, policy)
        return policy.name, volume.record.default


def _to_vm(name: str, target: Path, *, force: bool) -> tuple[str, HomeState, list[Found]]:
    """The policy's name, the VM's state, and how it departs from the policy all the same."""
    from ioflt.datastore import assign as assigning
    from ioflt.datastore import compliance, policies

    directory, vm = target.parent, target.name
    with (
        open_vms(directory, but=vm) as volume,
        progress(f"giving {vm} its policy", total(volume, vm)) as bar,
    ):
        policy = policies.to_assign(volume.keys, name)
        record = assigning.to_home(volume, vm, policy, bar.advance, force=force)
        return policy.name, record.state, compliance.of_home(volume.home(vm))


def _with(policy: StoragePolicy, options: dict[str, object]) -> StoragePolicy:
    """The policy with what was asked for, and the rest as it is."""
    import msgspec

    from ioflt.policy.model import CBT, Filter, encryption

    asked = msgspec.convert(options, _Asked)
    encrypts = policy.encrypts if asked.encrypts is None else asked.encrypts
    tracks = policy.has(CBT) if asked.cbt is None else asked.cbt
    cleartext_filters = asked.cleartext_filters
    if cleartext_filters is None:
        cleartext_filters = policy.allows_cleartext_filters
    chain = [encryption(cleartext_filters=cleartext_filters)] if encrypts else []
    if tracks:  # it notes which blocks change, not what is in them: above only where that is allowed
        chain.insert(0 if cleartext_filters else len(chain), Filter(CBT))
    return replace(
        policy,
        description=policy.description if asked.description is None else asked.description,
        filters=tuple(chain),
        provider=asked.provider or policy.provider,
        provisioning=asked.provisioning or policy.provisioning,
        integrity=policy.integrity if asked.integrity is None else asked.integrity,
        recovery_slot=policy.recovery_slot if asked.recovery_slot is None else asked.recovery_slot,
    )


def _add(policy: StoragePolicy, as_json: bool) -> None:
    from ioflt.policy import changes, text

    data = text.write(changes.add((), policy))
    with connect_keys() as keys:
        keys.add_policy(data)
        warn_unknown_provider(keys, policy.provider)
    _emit(_shown(policy), as_json)


def _emit(found: dict[str, Any], as_json: bool) -> None:
    def text() -> None:
        chain = [
            " ".join([one["id"], *(f"{name}={value}" for name, value in one["properties"].items())])
            for one in found["filters"]
        ]
        describe(found | {"filters": chain})

    emit(found, text, as_json)


def _shown(policy: StoragePolicy) -> dict[str, Any]:
    from ioflt.policy.bundled import BUNDLED
    from ioflt.policy.text import to_json

    return to_json(policy) | {"encrypts": policy.encrypts, "bundled": policy in BUNDLED}
