"""How long a backup of a thin disk takes, against `cp` of a dense file with as much data from the same mount.

The disk is a flat VMDK of 16 GiB in an encrypted VM, 1 GiB of it written, in pieces of 8 MiB. Each
round does all rows one after the other; what counts is the median of each row's shares of its round's `cp`.
Before each row the kernel's caches are dropped (cold), or the source was read once (warm). Every copy is
written to the same directory, and removed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benching import report
from benching.command import DIRECTORY, clean_up_whole, count, end_by_signals
from benching.filesystem import fill
from benching.places import Places
from benching.programs import IOFLT
from benching.vms import thin_disk

MIB = 1 << 20

#: What makes requests large, and keeps them out of the kernel's cache: README has them, too.
LARGE = "--request-size=1048576"
DIRECT = ("-T", "none")

#: Neither the copy by the kernel's cache, for qemu-img: 1.8 to 2.7 s with it, 1.0 to 1.2 s without.
PAST_CACHE = ("-t", "none")

Command = Sequence[object]


def make_disk(home: Path, data_mib: int) -> None:
    """The thin disk, and the dense file with as much data."""
    thin_disk(home, "thin", data_mib * MIB, share=16)
    fill(home / "dense.raw", data_mib * MIB)
    os.sync()


def rows(home: Path, uri: str, target: Path) -> Mapping[str, Command]:
    disk = home / "thin.vmdk"
    return {
        "cp of the dense file": ("cp", home / "dense.raw", target),
        "mount, nbdcopy": ("nbdcopy", LARGE, home / "thin-flat.vmdk", target),
        "mount, qemu-img convert": (
            *("qemu-img", "convert", *DIRECT, *PAST_CACHE, "-f", "vmdk", "-O", "raw"),
            *(disk, target),
        ),
        "NBD, nbdcopy": ("nbdcopy", LARGE, uri, target),
        "NBD, qemu-img convert": ("qemu-img", "convert", *PAST_CACHE, "-f", "raw", "-O", "raw", uri, target),
    }


@contextmanager
def exported(vm: Path) -> Iterator[str]:
    """The disk by `ioflt backup export`."""
    command: list[str | Path] = [IOFLT, "backup", "export", vm, "thin.vmdk", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield json.loads(server.stdout.readline() if server.stdout is not None else "")["uri"]
    finally:
        server.terminate()
        server.wait()


def seconds(command: Command, target: Path, *, warm: bool) -> float:
    """Of one run; the copy is removed."""
    Path("/proc/sys/vm/drop_caches").write_text("3")
    for _ in range(2 if warm else 1):
        target.unlink(missing_ok=True)
        begin = time.perf_counter()
        subprocess.run([str(word) for word in command], check=True)
        took = time.perf_counter() - begin
    target.unlink()
    return took


def measure(
    commands: Mapping[str, Command], target: Path, rounds: int, *, warm: bool
) -> dict[str, list[float]]:
    """The seconds of each row, round after round."""
    took: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            took[name].append(seconds(command, target, warm=warm))
    return took


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--directory", type=Path, default=DIRECTORY, help="where to measure (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=count, default=3, help="of each row, cold and warm (default 3)")
    parser.add_argument("--mib", type=count, default=1024, help="of data in the disk (default 1024)")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root, who drops the kernel's caches")
    end_by_signals()
    with ExitStack() as cleanup:
        base = Path(
            cleanup.enter_context(tempfile.TemporaryDirectory(prefix="ioflt-bench-", dir=arguments.directory))
        )
        table = Table(title=report.title(report.facts(base)), title_justify="left")
        table.add_column("backup")
        place = Places(base, cleanup, 0)["ioflt"]
        home = place.directory
        make_disk(home, arguments.mib)
        uri = cleanup.enter_context(exported(place.system.store / place.name))
        target = base / "copy"
        commands = rows(home, uri, target)
        columns = []
        try:
            for warm in (False, True):
                table.add_column("warm" if warm else "cold")
                columns.append(measure(commands, target, arguments.rounds, warm=warm))
        finally:
            clean_up_whole()
        for name in commands:
            table.add_row(name, *(shown(took[name], took[next(iter(commands))]) for took in columns))
        Console().print(table)
    return 0


def shown(took: Sequence[float], cp: Sequence[float]) -> str:
    share = statistics.median(mine / its for mine, its in zip(took, cp, strict=True))
    return f"{statistics.median(took):.2f} s  {share:.2f} × cp"


if __name__ == "__main__":
    sys.exit(main())
