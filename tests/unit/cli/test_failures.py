"""What the user is told of a failure."""

from __future__ import annotations

import json

import click
import pytest

from ioflt import errors
from ioflt.cli.failures import report
from ioflt.cli.hints import hint_for


def told(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_message_and_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(errors.ProviderLocked("the provider local is locked"), as_json=False) == 4
    assert told(capsys) == "ioflt: the provider local is locked\nhint: unlock the keys: ioflt keyd unlock\n"


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(errors.MalformedError("bad magic", "found 0", file="a.vmdk"), as_json=True) == 5
    assert json.loads(told(capsys)) == {
        "error": "MalformedError",
        "message": "a.vmdk: bad magic (found 0)",
        "file": "a.vmdk",
        "hint": "nothing was changed; a header backup may help: ioflt header restore BACKUP DIR/VM",
        "exit_code": 5,
    }


def test_backup_commands_tell_the_numbers_of_vddk(capsys: pytest.CaptureFixture[str]) -> None:
    error = errors.MalformedError("CID mismatch", "a.vmdk has 1", file="b.vmdk")
    assert report(error, as_json=False, numbered=True) == 5
    assert told(capsys).startswith(
        "ioflt: b.vmdk: CID mismatch (a.vmdk has 1) (VIX_E_DISK_CID_MISMATCH 16008)\nhint: "
    )
    report(error, as_json=True, numbered=True)
    assert json.loads(told(capsys))["vddk"] == {"name": "VIX_E_DISK_CID_MISMATCH", "number": 16008}
    report(click.UsageError("no such command"), as_json=True, numbered=True)
    assert json.loads(told(capsys))["vddk"] is None


def test_a_denial_names_privilege_and_object_alone(capsys: pytest.CaptureFixture[str]) -> None:
    error = errors.DeniedError(
        "permission denied: Cryptographer.Decrypt on web01", file="/srv/ds/web01/web01.nvram"
    )
    assert report(error, as_json=False) == 3
    assert told(capsys).splitlines()[0] == "ioflt: permission denied: Cryptographer.Decrypt on web01"


def test_a_hostile_name_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    report(errors.MalformedError("bad magic", file="\x1b]0;owned\x07\n\udcff"), as_json=False)
    assert told(capsys).splitlines()[0] == r"ioflt: \x1b]0;owned\x07\n\udcff: bad magic"


def test_a_bug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError) as caught:
        {}["missing"]
    assert report(caught.value, as_json=False) == 70
    text = told(capsys)
    assert "Traceback" in text
    assert "ioflt: internal error: KeyError: 'missing'" in text


def test_hints_quote_names_for_the_shell() -> None:
    hint = hint_for(errors.AuthenticationError("bad MAC", file="/ds/a b; rm -rf ~"))
    assert hint is not None
    assert "ioflt inspect '/ds/a b; rm -rf ~'" in hint


@pytest.mark.parametrize(
    "error",
    [
        errors.KeyNotFound("no such key"),
        errors.ProviderUnavailable("no answer"),
        errors.KeyNotUsable("disabled"),
        errors.KeyCorrupt("64 bytes"),
        errors.CrossHomeError("different keys"),
        errors.BusyError("open"),
        errors.UnsupportedError("null cipher"),
        errors.PeerError("keyd did not answer"),
        errors.BugError("impossible"),
        errors.ReadOnlyError("the home's record is missing"),
        errors.ReadOnlyError("its decryption was interrupted"),
        errors.ReadOnlyError("the decryption of its disk a b.vmdk was interrupted"),
        errors.UsageError("the encryption of its disk a.vmdk was interrupted, and comes first"),
        errors.NotFoundError("not a datastore"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_there_is_advice(error: errors.IofltError) -> None:
    assert "ioflt" in (hint_for(error) or "") or isinstance(
        error, errors.CrossHomeError | errors.BusyError | errors.BugError
    )
    assert hint_for(error)


def test_no_advice_is_made_up() -> None:
    assert hint_for(errors.StorageError("write", 5)) is None
    assert hint_for(ValueError("x")) is None
