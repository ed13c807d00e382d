"""What `ioflt health` found, as a file for the textfile collector of Prometheus' node exporter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ioflt.keys import files

#: A metric: name, what it says, and each value with its labels.
Metric = tuple[str, str, Iterable[tuple[Mapping[str, str], int]]]


def write(path: Path, metrics: Iterable[Metric]) -> None:
    """Replace the file, so that nobody reads half of it. Raises StorageError."""
    files.replace(path, text(metrics).encode(), 0o644)


def text(metrics: Iterable[Metric]) -> str:
    """The exposition format, version 0.0.4: gauges."""
    lines = []
    for name, told, values in metrics:
        lines += [f"# HELP {name} {told}", f"# TYPE {name} gauge"]
        for labels, value in values:
            inside = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
            lines.append(f"{name}{{{inside}}} {value}" if inside else f"{name} {value}")
    return "".join(f"{line}\n" for line in lines)


def _escaped(label: str) -> str:
    """What is no UTF-8 stays told apart."""
    told = label.encode(errors="backslashreplace").decode()
    return told.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
