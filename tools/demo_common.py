"""What the parts of the demo share: running programs, and what was proved."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

IOFLT = Path(sys.executable).parent / "ioflt"

console = Console(highlight=False)


class Stopped(Exception):
    """A step could not be done at all; those after it make no sense."""


@dataclass(frozen=True)
class Outcome:
    """What an outsider's command did."""

    code: int
    output: str
    errors: str

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def said(self) -> str:
        """Its last line, for evidence, without the name of the file."""
        lines = (self.errors or self.output).strip().splitlines()
        return lines[-1].rpartition("': ")[2] if lines else ""

    @property
    def refused(self) -> bool:
        """It failed, by itself (no signal), and said why."""
        return self.code > 0 and bool(self.said)


def run(*command: str | Path, env: dict[str, str] | None = None, timeout: float = 120) -> Outcome:
    """Run a program of which success is in question."""
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "LC_ALL": "C", **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def must(*command: str | Path, timeout: float = 120) -> str:
    """Run a program that has to succeed. Returns its output."""
    done = run(*command, timeout=timeout)
    if not done.ok:
        line = " ".join(str(part) for part in command)
        raise Stopped(f"{line}\nexit code {done.code}\n{done.errors}{done.output}")
    return done.output


def ioflt(*arguments: str | Path, timeout: float = 120) -> str:
    """Run `ioflt`, showing the command line. Returns its output."""
    console.print(Text("  $ ioflt " + " ".join(str(part) for part in arguments), style="cyan"))
    return must(IOFLT, *arguments, timeout=timeout)


@dataclass
class Proofs:
    """What was claimed, whether it held, and by which evidence."""

    rows: list[tuple[str, bool, str]] = field(default_factory=list)

    def add(self, claim: str, holds: bool, evidence: str) -> None:
        mark = Text("  proved  ", style="green") if holds else Text("  FAILED  ", style="bold red")
        console.print(mark + Text(claim, style="default") + Text(f"  ({evidence})", style="dim"))
        self.rows.append((claim, holds, evidence))

    @property
    def all_hold(self) -> bool:
        return bool(self.rows) and all(holds for _, holds, _ in self.rows)

    def show(self) -> None:
        table = Table(title="What was shown", title_justify="left")
        for heading in ("", "claim", "evidence"):
            table.add_column(heading, overflow="fold")
        for claim, holds, evidence in self.rows:
            table.add_row(Text("✔", "green") if holds else Text("✘", "bold red"), Text(claim), Text(evidence))
        console.print()
        console.print(table)


_numbers = itertools.count(1)


def step(title: str) -> None:
    console.print()
    console.print(Text(f"{next(_numbers)}  {title}", style="bold"))
