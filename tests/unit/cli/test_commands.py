"""The table of commands: every entry is there, has a manual, and help stays quick."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ioflt.cli.lazy import Entry, LazyGroup
from ioflt.cli.main import cli


def entries(group: LazyGroup) -> Iterator[Entry]:
    for entry in group._entries():
        yield entry
        if entry.name == "vm":
            yield from entries(entry.load())


ENTRIES = list(entries(cli))


@pytest.mark.parametrize(
    "entry", ENTRIES, ids=lambda entry: f"{entry.module.rpartition('.')[2]}-{entry.name}"
)
def test_every_entry_loads_and_has_help(entry: Entry) -> None:
    command = entry.load()
    assert command.name == entry.name
    assert command.help
    assert len(entry.help) <= 64


NAME_A_KEY = {
    "ioflt datastore recrypt",
    "ioflt vm move",
    "ioflt vm recrypt",
    "ioflt provider create transit",
    "ioflt provider create pkcs11",
}


def every_command(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from every_command(command.get_command(context, name), f"{path} {name}")


def test_what_shows_or_lists_has_json_and_nothing_secret_is_an_argument() -> None:
    commands = dict(every_command(cli, "ioflt"))
    for path, command in commands.items():
        names = {option for parameter in command.params for option in parameter.opts}
        if path.rpartition(" ")[2] in ("list", "show", "status", "inspect", "check"):
            assert "--json" in names, path
        secrets = {"--passphrase", "--password", "--key", "--secret"}
        if path in NAME_A_KEY:
            secrets -= {"--key"}  # the id or the name of one
        assert not names & secrets, path


def test_help_imports_little() -> None:
    script = (
        "import sys; sys.argv = ['ioflt', '--help']; from ioflt.cli.main import main; main();"
        "heavy = {'rich', 'msgspec', 'cryptography', 'trio', 'pyfuse3'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_client_of_keyd_imports_no_event_loop() -> None:
    """Every command is one, and each would take a third longer to start."""
    script = "import sys; import ioflt.keys.client, ioflt.keys.mounts; sys.exit('trio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_command_that_takes_secrets_dumps_no_core(tmp_path: Path, ioflt_home: Path) -> None:
    """Passphrases, data keys and plaintext are in the memory of commands, too."""
    secret = tmp_path / "secret"
    os.mkfifo(secret, 0o600)
    command = [
        sys.executable,
        "-m",
        "ioflt",
        "provider",
        "create",
        "native",
        "p",
        "--passphrase-file",
        secret,
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        with secret.open("wb") as fifo:  # open once the command waits for it
            assert resource.prlimit(process.pid, resource.RLIMIT_CORE) == (0, 0)
            # an undumpable process's files in /proc belong to root; with root's own uid this says nothing
            assert Path(f"/proc/{process.pid}/mem").stat().st_uid == 0
            fifo.write(b"passphrase")
        assert process.wait() == 0
