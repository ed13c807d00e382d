"""Which advice goes with which failure."""

from __future__ import annotations

import errno
from pathlib import Path

import click
import pytest

from ioflt import errors
from ioflt.cli.hints import advising, hint_for, with_advice
from ioflt.cli.mount import naming_missing
from ioflt.cli.session import home_argument

PLAIN = "nothing was changed"
HEADER = f"{PLAIN}; a header backup may help: ioflt header restore BACKUP DIR/VM"


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (errors.NotFoundError("no datastore here", file="/ds"), "make it one: ioflt datastore init /ds"),
        (errors.NotFoundError("no such VM home", file="/a b/nope"), "ioflt vm list '/a b'"),
        (errors.ExistsError("is a datastore already", file="ds"), "ioflt datastore show ds"),
        (errors.BusyError("something is mounted there already", file="/mnt"), "ioflt umount /mnt"),
        (
            errors.NotFoundError("no datastore here, but the home of a VM", file="/gone/web01"),
            "name a datastore; this VM lies in none",
        ),
        (errors.ProviderLocked("the provider corp waits for its passphrase"), "ioflt keyd unlock corp"),
        (errors.ProviderLocked("the provider corp waits for its PIN"), "ioflt keyd unlock corp"),
        (errors.ProviderLocked("the token of corp: wrong PIN"), "ioflt keyd unlock corp"),
        (errors.KeyNotUsable("the token of corp: wrong PIN"), f"{PLAIN}; try again"),
        (
            errors.KeyNotUsable("the token of corp: its PIN is locked"),
            "have who runs the token set a PIN, then: ioflt keyd unlock corp",
        ),
        (
            errors.KeyNotFound("the token of corp: it has no AES key wrap"),
            "have who runs the token look at that key, then: ioflt provider test corp",
        ),
        (
            errors.ProviderUnavailable("the token of corp: it needs the package python-pkcs11"),
            "pip install 'ioflt[pkcs11]'",
        ),
        (
            errors.ProviderUnavailable("the token of corp: no answer within 10 seconds"),
            "try each step: ioflt provider test corp",
        ),
        (
            errors.AuthenticationError("unknown operation", "an old copy", file="/ds/web01"),
            f"{PLAIN}; if you know where this home comes from, say so: ioflt vm register /ds/web01",
        ),
        (
            errors.UsageError("is a directory, not a stored file", file="ds/web01"),
            "a VM: ioflt vm show ds/web01, a datastore: ioflt datastore show DIR",
        ),
        (errors.ExistsError("it exists already", file="out"), "nothing is overwritten; give another name"),
        (errors.NotFoundError("no provider corp is configured here"), "ioflt provider list"),
        (errors.KeyNotUsable("wrong passphrase for the provider corp"), f"{PLAIN}; try again"),
        (
            errors.BusyError("files are open: web01/web01.vmdk", file="/mnt"),
            "close them, or lock nevertheless: ioflt keyd lock --suspend (their I/O waits), --force (fails)",
        ),
        (
            errors.BusyError("another command changes its keys", file="web01"),
            "let that command end, then try again",
        ),
        (
            errors.KeyNotUsable("the key was removed from this host"),
            "see the keys of a datastore: ioflt key list DIR; take it back: ioflt key add ID",
        ),
        (
            errors.BusyError("in use: a file is open or a shell stands in it", file="/mnt"),
            "see who it is, and end it: fuser -vm /mnt",
        ),
        (errors.StorageError("write", errno.ENOSPC), "make room, then run the command again"),
        (
            errors.UsageError("cannot make the directory: Permission denied", file="/nonexistent"),
            "name a directory for state and sockets: export IOFLT_HOME=DIR",
        ),
        (errors.NotFoundError("the mount point does not exist", file="mnt"), "mkdir mnt"),
        (errors.MalformedError("truncated header", "8 bytes", file="a-flat.vmdk"), HEADER),
        (errors.MalformedError("truncated header", "8 bytes", file="web.vmx"), PLAIN),
        (errors.MalformedError("bad JSON", file="keys.backup"), PLAIN),
        (errors.MalformedError("bad archive", file="bad.ova"), PLAIN),
    ],
    ids=lambda value: value.message.replace(" ", "-") if isinstance(value, errors.IofltError) else "",
)
def test_advice(error: errors.IofltError, hint: str) -> None:
    assert hint_for(error) == hint


def test_a_command_knows_better() -> None:
    with pytest.raises(errors.ExistsError) as caught, advising(errors.ExistsError, "there", "--as NAME"):
        raise errors.ExistsError("is there already")
    assert hint_for(caught.value) == "--as NAME"


def test_only_of_the_errors_it_speaks_of() -> None:
    with pytest.raises(errors.UnsupportedError) as caught, advising(errors.UnsupportedError, "parent", "x"):
        raise errors.UnsupportedError("null cipher")
    assert hint_for(caught.value) != "x"


def test_a_vm_named_without_its_datastore_does_not_become_one() -> None:
    @click.command()
    @home_argument
    def command(home: tuple[Path, str]) -> None:
        raise errors.NotFoundError("no datastore here", file=home[0])

    with pytest.raises(errors.NotFoundError) as caught:
        command.main(["ds"], standalone_mode=False)
    assert hint_for(caught.value) == "name a VM as DIR/VM; DIR is the datastore"


def test_a_missing_mount_point_is_missing(tmp_path: Path) -> None:
    missing = tmp_path / "mnt"
    with pytest.raises(errors.NotFoundError, match="does not exist"), naming_missing(missing):
        raise errors.UsageError("the mount point is not a directory", file=missing)
    missing.touch()
    with pytest.raises(errors.UsageError), naming_missing(missing):
        raise errors.UsageError("the mount point is not a directory", file=missing)


def test_the_backup_warning_ends_with_its_command() -> None:
    warning = "the provider local was never backed up: without this host its keys are lost"
    assert with_advice(warning) == f"{warning}; ioflt provider backup local FILE"
    warning = "the sealed keys of the provider corp are of no use: bad MAC; it is left as it is"
    assert with_advice(warning) == f"{warning}; begin anew: ioflt provider cache corp --days N"
    assert with_advice("key memory is plain") == "key memory is plain"


def test_help_of_groups_is_whole() -> None:
    from ioflt.cli import datastore, keyd, provider, recovery

    for group in (
        datastore.datastore,
        keyd.keyd,
        provider.provider,
        provider.create,
        provider.slot,
        recovery.recovery,
        recovery.header,
        recovery.vmx,
    ):
        text = group.get_help(click.Context(group, max_content_width=80, terminal_width=80))
        assert "...\n" not in text.partition("Commands:")[2] + "\n", group.name
