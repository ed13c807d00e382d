"""Runs tests/cli/*.txt: scripts of commands with what they must print.

A line that begins with `$ ` is a command for bash. After it stand its standard output, each line after `| `,
its standard error, after `! `, and its exit code `[N]` unless that is 0. Empty lines and `#` lines are text.
A script has a directory of its own, whose path shows as `TMP`, and an $IOFLT_HOME of its own. Each `ioflt` of
`STARTED` is a program that starts; in the others it is a fork (tests/forked.py).
`--update-cli` rewrites the output; review the difference.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ioflt
from tests import forked

HERE = Path(__file__).parent
SCRIPTS = sorted(HERE.glob("*.txt"))
STARTED = ("errors", "help")


def transcript(script: str, directory: Path, environment: dict[str, str]) -> str:
    """The script with the output that its commands have now."""
    lines: list[str] = []
    for line in script.splitlines():
        if line.startswith("$ "):
            lines.append(line)
            lines += outcome(line[2:], directory, environment)
        elif not line or line.startswith("# "):
            lines.append(line)
    return "\n".join(lines) + "\n"


def outcome(command: str, directory: Path, environment: dict[str, str]) -> list[str]:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    shown = [f"| {line}".rstrip() for line in done.stdout.splitlines()]
    shown += [f"! {line}".rstrip() for line in done.stderr.splitlines()]
    shown += [f"[{done.returncode}]"] if done.returncode else []
    return [line.replace(str(directory), "TMP") for line in shown]


@pytest.fixture
def environment(path: Path, tmp_path: Path, ioflt_home: Path) -> dict[str, str]:
    """An environment in which `ioflt` is this source tree's, and nothing depends on the user's settings."""
    programs = tmp_path / "bin"
    programs.mkdir()
    command = programs / "ioflt"
    if path.stem in STARTED:
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m ioflt "$@"\n')
        command.chmod(0o755)
    else:
        command.symlink_to(forked.ioflt())
    kept = {name: os.environ[name] for name in ("TMPDIR", "IOFLT_TEST_SESSION") if name in os.environ}
    return {
        **kept,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(ioflt.__file__).parent.parent),
        "IOFLT_HOME": str(ioflt_home),
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
        "COLUMNS": "80",
    }


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(
    path: Path, tmp_path: Path, environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    directory = tmp_path / "work"
    directory.mkdir()
    expected = path.read_text()
    actual = transcript(expected, directory, environment)
    if request.config.getoption("--update-cli"):
        path.write_text(actual)
    else:
        assert actual == expected
