"""A provider that was never backed up is named by every command, and by nothing that is no command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ioflt.keys.native.store import NativeStore

WARNING = (
    "ioflt: warning: the provider local was never backed up: without this host its keys are lost;"
    " ioflt provider backup local FILE"
)


def ioflt(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    more = {"PYTHONWARNINGS": "ignore", **more}  # that the C files were not built is no matter here
    return subprocess.run(
        [sys.executable, "-m", "ioflt", *arguments],
        env={**os.environ, "IOFLT_HOME": str(home), **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def home(ioflt_home: Path) -> Path:
    providers = ioflt_home / "state" / "providers"
    providers.mkdir(parents=True)
    NativeStore(providers).create("local")
    return ioflt_home


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "/etc/passwd"),
        ("inspect", "/nowhere"),
        ("keyd", "status"),
        ("keyd", "stop"),
        ("umount", "/"),
        ("provider", "create", "native", "local"),
    ],
    ids=" ".join,
)
def test_commands_that_need_no_key_remind(home: Path, arguments: tuple[str, ...]) -> None:
    assert ioflt(home, *arguments).stderr.splitlines().count(WARNING) == 1


def test_json_stays_json(home: Path) -> None:
    done = ioflt(home, "inspect", "--json", "/etc/passwd")
    assert json.loads(done.stdout)["kind"] == "unknown"
    assert done.stderr.splitlines() == [WARNING]


@pytest.mark.parametrize(
    "arguments",
    [(), ("--version",), ("--help",), ("keyd", "--help"), ("keyd", "stop", "--help"), ("completion", "bash")],
    ids=" ".join,
)
def test_help_and_completion_do_not(home: Path, arguments: tuple[str, ...]) -> None:
    assert "warning" not in ioflt(home, *arguments).stderr


def test_a_slip_does_not(home: Path) -> None:
    assert "warning" not in ioflt(home, "keyd", "stpo").stderr
    assert "warning" not in ioflt(home, "keyd", "stop", "--now").stderr


def test_the_shells_completion_does_not(home: Path) -> None:
    done = ioflt(home, _IOFLT_COMPLETE="bash_complete", COMP_WORDS="ioflt keyd st", COMP_CWORD="2")
    assert (done.stdout.split(), done.stderr) == (["plain,start", "plain,status", "plain,stop"], "")


def test_where_there_is_no_state_none_is_made(tmp_path: Path) -> None:
    done = ioflt(tmp_path / "home", "inspect", "/etc/passwd")
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "home").exists()


def test_a_backed_up_or_broken_provider_is_no_matter(home: Path) -> None:
    store = NativeStore(home / "state" / "providers")
    store.mark_backed_up("local")
    store.path("broken").write_text("{")
    assert ioflt(home, "inspect", "/etc/passwd").stderr == ""
