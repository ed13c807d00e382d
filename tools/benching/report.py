"""What a run found: tables for a terminal and a page, JSON, a line in the history; and on what machine."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.table import Table
from rich.text import Text

import ioflt
from ioflt.crypto import xts

from .programs import BenchError
from .results import PLACES, Figures, Verdict, judged, ratio
from .targets import TARGETS
from .work import MIB, Extent

#: Columns that the table takes.
WIDTH = 170

#: Between these a page has the table.
_BEGIN, _END = "<!-- bench -->", "<!-- /bench -->"
_BETWEEN = re.compile(f"(?<=^{_BEGIN}\n).*?(?=^{_END}$)", re.DOTALL | re.MULTILINE)

_ROOT = Path(__file__).resolve().parents[2]


def facts(directory: Path) -> dict[str, object]:
    """What makes figures of two runs comparable, or not."""
    kind = _said("findmnt", "-n", "-o", "FSTYPE", "-T", str(directory))
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": model[0].partition(":")[2].strip() if model else platform.machine(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "file_system": kind,
        "native": xts.NATIVE,
        "load": round(os.getloadavg()[0], 1),
    }


def versions() -> dict[str, str]:
    """Of what is measured, and of what measures."""
    return {
        "ioflt": ioflt.__version__,
        "python": platform.python_version(),
        "pyfuse3": version("pyfuse3"),
        "openssl": _said("openssl", "version").removeprefix("OpenSSL ").partition(" (")[0],
        "gocryptfs": _said("gocryptfs", "-version").removeprefix("gocryptfs ").partition(";")[0],
        "fio": _said("fio", "--version").removeprefix("fio-"),
        "qemu": _said("qemu-img", "--version").partition("\n")[0].removeprefix("qemu-img version "),
    }


def _said(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False).stdout.strip()


def title(machine: Mapping[str, object]) -> str:
    """The facts in a line."""
    native = "C files built" if machine["native"] else "C files NOT built"
    return "{cpus} × {cpu}, {kernel}, {file_system}, load {load}".format(**machine) + f", {native}"


def _heading(machine: Mapping[str, object], extent: Extent) -> str:
    much = f"{extent.size // MIB:,} MiB a disk, {extent.names:,} files"
    return f"{title(machine)}; {much}"


def table(run: Sequence[Figures], machine: Mapping[str, object], extent: Extent) -> Table:
    """A line for each row: medians, spread and ratios with their targets; below, processor time a GiB."""
    head, *lines = _cells(run)
    shown = Table(title=_heading(machine, extent), title_justify="left", show_lines=True)
    shown.caption = _versions()
    shown.add_column(head[0])
    for column in head[1:]:
        shown.add_column(column, justify="right", no_wrap=True)
    for line in lines:
        shown.add_row(*line)
    return shown


def markdown(run: Sequence[Figures], machine: Mapping[str, object], extent: Extent) -> str:
    """The same for a page: machine, extent and date above it, versions below."""
    head, *lines = ([Text.from_markup(cell).plain for cell in line] for line in _cells(run))
    rows = (head, ["---", *["--:"] * (len(head) - 1)], *lines)
    said = "".join("| " + " | ".join(row).replace("\n", "<br>") + " |\n" for row in rows)
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    return f"{date}, {_heading(machine, extent)}:\n\n{said}\n{_versions()}\n"


def around(page: Path) -> tuple[str, str]:
    """What a page has before its table and after it. Raises BenchError if it has no place for one."""
    try:
        found = _BETWEEN.search(text := page.read_text("utf-8"))
    except OSError as error:
        raise BenchError(f"{page}: {error.strerror}") from None
    if found is None:
        raise BenchError(f"{page}: no place for a table, which goes between lines {_BEGIN} and {_END}")
    return text[: found.start()], text[found.end() :]


def put(page: Path, table: str) -> None:
    """In the place of the table that it has. Raises BenchError as `around`."""
    before, after = around(page)
    page.write_text(f"{before}\n{table}\n{after}", encoding="utf-8")


def _versions() -> str:
    return ", ".join(f"{name} {said}" for name, said in versions().items())


def _cells(run: Sequence[Figures]) -> Iterator[list[str]]:
    """Line by line, the first has the columns' names; with rich's markup."""
    others = sorted({place for figures in run for place in figures.samples} - set(PLACES))
    yield ["row", *PLACES, *others, "÷ gocryptfs", "÷ bare"]
    for figures in run:
        yield [
            f"{figures.row.name}\n[dim]{figures.row.title}, {figures.row.unit}[/dim]",
            *(_cell(figures, place) for place in (*PLACES, *others)),
            *(_ratios(figures, place) for place in ("gocryptfs", "bare")),
        ]


def _cell(figures: Figures, place: str) -> str:
    median = figures.median(place)
    if median is None:
        return ""
    low, high = figures.spread(place)
    lines = [f"{_number(median)} ±{(high - low) / 2 / median:.0%}"]
    if (cost := figures.cpu(place)) is not None:
        lines.append(f"[dim]{cost:.2f} s/GiB[/dim]")
    if place == "ioflt":
        lines += [_shown(verdict) for verdict in judged(figures, TARGETS) if verdict.target.than is None]
    return "\n".join(lines)


def _ratios(figures: Figures, place: str) -> str:
    if figures.row.unit == "×":  # it is a ratio already
        return ""
    verdicts = {
        verdict.target.of_cpu: _shown(verdict)
        for verdict in judged(figures, TARGETS)
        if verdict.target.than == place
    }
    return "\n".join(
        f"{found:.2f} {verdicts.get(of_cpu, '')}".rstrip()
        for of_cpu in (False, True)
        if (found := ratio(figures, place, of_cpu=of_cpu)) is not None
    )


def _shown(verdict: Verdict) -> str:
    sign = "≤" if verdict.target.at_most else "≥"
    outcome = "[green]met[/green]" if verdict.met else "[red]not met[/red]"
    return f"{sign} {verdict.target.bound:g} {outcome}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def remember(history: Path, run: Sequence[Figures], machine: Mapping[str, object], extent: Extent) -> None:
    """Append a line of JSON: when, of which commit, where, by what, of how much, and what was found."""
    line = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _said("git", "describe", "--always", "--dirty", "--exclude=*"),
        "machine": machine,
        "versions": versions(),
        "extent": asdict(extent),
        "rounds": max(figures.rounds for figures in run),
        "medians": {figures.row.name: figures.medians() for figures in run},
        "cpu_s_per_gib": {figures.row.name: costs for figures in run if (costs := figures.cpus())},
    }
    history.parent.mkdir(parents=True, exist_ok=True)
    with open(history, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
