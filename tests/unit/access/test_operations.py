"""The table of operations: each command is in it, README shows it, no key goes out without a privilege."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from ioflt.access.matrix import placed
from ioflt.access.operations import OPERATIONS
from ioflt.access.privileges import VM_CRYPTOGRAPHY
from ioflt.access.roles import NO_CRYPTOGRAPHY
from ioflt.cli.main import cli
from tools.matrix import README


def commands(group: click.Group, before: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command below that does something by itself, by its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        words = (*before, name)
        if isinstance(command, click.Group):
            yield from commands(command, words)
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield " ".join(words), command


#: A test bed is a machine of its own: its commands act in its $IOFLT_HOME, and on nothing of this one.
COMMANDS = {name: command for name, command in commands(cli) if not name.startswith("testbed ")}


def test_every_command_is_in_the_table() -> None:
    assert set(COMMANDS) - set(OPERATIONS) == set()


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_in_the_table_is_a_command_or_a_part_of_one(name: str) -> None:
    command, _, part = name.partition(": ")
    assert command in COMMANDS
    if part.startswith("--"):
        assert part in {option for each in COMMANDS[command].params for option in each.opts}


def test_data_keys_go_out_for_vm_cryptography_alone() -> None:
    for operation in OPERATIONS.values():
        asked = {need.privilege for need in operation.needs}
        assert bool(asked & VM_CRYPTOGRAPHY) or not operation.hands_out, operation.name
        assert not operation.hands_out or not asked <= NO_CRYPTOGRAPHY.privileges, operation.name


def test_readme_shows_the_table_as_it_is() -> None:
    assert README.read_text() == placed(README.read_text()), "run: python tools/matrix.py"
