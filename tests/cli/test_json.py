"""Every command that a script would read has `--json`, and prints what `ioflt/cli/SPEC.md` says."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ioflt.cli.main import cli
from tests.json_spec import check, spec

#: Commands whose outcome is their exit code, and those whose standard output is something else.
WITHOUT = {"mount", "umount", "backup mount", "completion", "vmx export"}

#: Those that need a key server, a token or a mount: tests/contracts and tests/interop hold them against it.
WITH_PEERS = {
    *("key locate", "key revoke", "key destroy", "provider create pkcs11"),
    *("backup export", "backup exports", "backup hotadd", "testbed up", "testbed fault", "testbed down"),
}

#: Each command, after what it needs; `!` is one for the shell. `{key}` is the key of the VM `web`.
SCRIPT = """
provider create native corp --passphrase-file pass
provider create native spare
keyd start
keyd unlock corp --passphrase-file pass
provider list
provider default corp
provider backup corp corp.p12 --passphrase-file pass --provider-passphrase-file pass
provider backup spare spare.p12 --passphrase-file pass
provider test spare
provider restore corp.p12 --passphrase-file pass
provider split spare --shares 2 --threshold 2 shares
provider passwd corp --passphrase-file pass --provider-passphrase-file pass
provider slot add corp keyfile --provider-passphrase-file pass
provider slot list corp
provider slot remove corp keyfile --provider-passphrase-file pass
provider cache corp
provider create kmip kms --server kms.example --out ca.pem
provider trust kms --ca ca.pem
provider renew kms new.pem
provider create transit bao --url https://bao.example --key ioflt --ca ca.pem --token-file pass
provider remove kms
provider remove bao
datastore init ds --adopt-clear
datastore show ds
datastore recrypt ds
vm list ds
vm mark ds/web --holds-keys
vm encrypt ds/web --force
vm recrypt ds/web
vm recrypt --deep ds/web
vm show ds/web
vm clone ds/web ds/copy
vm move ds/copy ds/other
vm export ds/web out
vm import out ds
backup run ds/web dest
backup list dest
backup show dest web
backup verify dest
backup restore dest ds --as back
backup run ds/web dest --incremental
backup replicate dest second
backup prune dest --keep-last 1
vm decrypt ds/out
! rm ds/raw/.ioflt
vm register ds/raw --clear
key list ds
key status {key}
key drill --without corp
inspect ds/web/web-flat.vmdk
check ds
policy create Gold --recovery-slot
policy clone Gold Silver --thick
policy show Gold
policy list
policy assign Gold ds/web
policy check ds
health ds
policy remove Silver
recovery add ds/web/web-flat.vmdk --passphrase-file pass
recovery fill ds/web/web-flat.vmdk
header backup ds/web headers
header restore headers ds/web
recovery remove ds/web/web-flat.vmdk --all
vmx export ds/web --passphrase-file pass --output web.vmx
vmx import web.vmx ds/web --passphrase-file pass --force
cbt enable ds/web web.vmdk
cbt query ds/web web.vmdk
cbt disable ds/web web.vmdk
disk extend ds/web/web.vmdk 2M
keyd status
attest ds --out report
events set --sink none
events verify
keyd lock
keyd unlock
keyd unlock corp --passphrase-file pass
key remove {key} --force
key add {key}
role create night --privilege Cryptographer.Access
role clone night day
role remove day
role show night
role list
service create backup
service list
folder create tenant --events
folder set tenant --provider local
folder add tenant ds/web
permission grant service:backup night folder:tenant
permission explain service:backup Cryptographer.Access ds/web
permission list
folder list
folder show tenant
events verify --folder tenant
permission revoke service:backup folder:tenant
folder remove tenant ds/web
folder delete tenant
service remove backup
setup --separate-duties --key-admin games --vm-admin daemon
vm erase ds/other --yes
! cp ds/.ioflt older
datastore recrypt ds
! cp older ds/.ioflt
datastore register ds --accept-rollback
keyd stop
testbed list
"""


PASSPHRASE = "correct horse"


def leaves(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path.lstrip(), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from leaves(below, f"{path} {name}")


COMMANDS = dict(leaves(cli))


def has_json(command: click.Command) -> bool:
    return any("--json" in parameter.opts for parameter in command.params)


def test_all_have_it_but_those_that_say_nothing() -> None:
    assert {path for path, command in COMMANDS.items() if not has_json(command)} == WITHOUT


def test_all_are_in_the_text() -> None:
    assert spec().keys() == COMMANDS.keys() - WITHOUT | {"vm recrypt --deep"}


def _named(words: list[str]) -> str:
    """The command of a line; `vm recrypt` prints something else with --deep."""
    command = max((path for path in COMMANDS if words[: path.count(" ") + 1] == path.split()), key=len)
    return f"{command} --deep" if "--deep" in words else command


def _prepare() -> None:
    Path("pass").touch(0o600)
    Path("pass").write_text(f"{PASSPHRASE}\n")
    for name in ("web", "raw"):
        Path("ds", name).mkdir(parents=True)
    Path("ds/web/web.vmdk").write_text(
        '# Disk DescriptorFile\nversion=1\nCID=1\ncreateType="vmfs"\nRW 2048 VMFS "web-flat.vmdk"\n'
    )
    Path("ds/raw/raw.vmx").touch()
    Path("ds/web/web.vmx").write_text('displayName = "web"\n')
    with open("ds/web/web-flat.vmdk", "wb") as file:
        file.truncate(1 << 20)


@pytest.mark.allow_log("rolled back, and accepted")
def test_what_is_printed(
    ioflt_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    _prepare()
    seen = set()
    key = ""
    for line in SCRIPT.strip().splitlines():
        words = shlex.split(line.replace("{key}", key))
        if words[0] == "!":
            subprocess.run(words[1:], check=True)
            continue
        command = _named(words)
        if command in WITHOUT:
            cli.main(words, prog_name="ioflt", standalone_mode=False)
            continue
        cli.main([*words, "--json"], prog_name="ioflt", standalone_mode=False)
        told = capsys.readouterr()
        assert PASSPHRASE not in told.out + told.err
        printed = json.loads(told.out)
        check(command, printed)
        if command == "vm show":
            (key,) = printed["keys"]
        seen.add(command)
    assert seen == spec().keys() - WITH_PEERS
