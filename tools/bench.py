"""How fast ioflt is, beside other file systems: `python tools/bench.py ROWS…`, all rows if none is named.

One after the other, round after round: an encrypted VM, a clear one and one with integrity through one ioflt
mount, a pass-through by pyfuse3 alone (`tools/bare_mount.py`), gocryptfs, QEMU's LUKS. Shown are medians,
half of the distance from lowest to highest, seconds of processor time a GiB, ratios, and whether targets are
met. What is measured and how is said in `tools/benching`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from benching import report, rounds, rows
from benching.command import DIRECTORY, clean_up_whole, count, duration, end_by_signals
from benching.places import Places
from benching.programs import BenchError, need
from benching.results import PLACES, Figures, to_json
from benching.targets import TARGETS
from benching.work import MIB, Extent

FULL = {"rounds": 5, "seconds": 1.0, "mib": 512, "names": 10_000, "places": ",".join(rows.PLACES)}
QUICK = {"rounds": 3, "seconds": 0.3, "mib": 128, "names": 200, "places": ",".join(PLACES)}

#: So many disks lie side by side in the end.
_DISKS = 20


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(rows.NAMES))
    parser.add_argument("--quick", action="store_true", help="rows with targets, 3 short rounds: 2 minutes")
    parser.add_argument("--places", metavar="A,B,…", help=f"of {','.join(rows.PLACES)}")
    parser.add_argument("--rounds", type=count, help="of each row (default 5)")
    parser.add_argument("--seconds", type=duration, help="of a job that goes by time (default 1)")
    parser.add_argument("--mib", type=count, help=f"of a disk (default 512); takes room for {_DISKS}")
    parser.add_argument("--names", type=count, help="files of the rows about names (default 10,000)")
    parser.add_argument("--vms", type=count, default=10_000, help="of the datastore of many (default 10,000)")
    parser.add_argument(
        "--directory", type=Path, default=DIRECTORY, help="where to measure (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="put the table there, between the lines <!-- bench --> and <!-- /bench -->",
    )
    parser.add_argument("--history", type=Path, metavar="FILE", help="append a line of JSON there")
    parser.set_defaults(**FULL)
    if parser.parse_args().quick:
        parser.set_defaults(**QUICK)
    return parser.parse_args()


def main() -> int:
    options = arguments()
    end_by_signals()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # as users have it: `help` takes 72 ms, without 184 ms
    machine = report.facts(options.directory)
    extent = Extent(options.mib * MIB, options.seconds, options.names, options.vms)
    found: list[Figures] = []
    try:
        _measure(options, extent, found)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:  # what was done before a failure or Ctrl-C, too
        if found:
            Console(width=max(Console().width, report.WIDTH)).print(report.table(found, machine, extent))
    if options.json is not None:
        text = json.dumps(to_json(found, TARGETS), indent=1, ensure_ascii=False)
        options.json.write_text(f"{text}\n", encoding="utf-8")
    if options.history is not None:
        report.remember(options.history, found, machine, extent)
    if options.markdown is not None:  # last: the history tells whether the checkout was changed
        report.put(options.markdown, report.markdown(found, machine, extent))
    return 0


def _measure(options: argparse.Namespace, extent: Extent, found: list[Figures]) -> None:
    """Append to `found` as rows are done. Nothing is left mounted, running or stored."""
    wanted = rows.chosen(options.rows or (rows.QUICK if options.quick else ()), rows.NAMES)
    where = rows.chosen(options.places.split(","), rows.PLACES)
    if os.geteuid() != 0:
        raise BenchError("needs root, who sees the memory of keyd and has mounts read ahead; try sudo")
    _check(options)
    with (
        tempfile.TemporaryDirectory(prefix="ioflt-bench-", dir=options.directory) as base,
        ExitStack() as cleanup,
        Console(stderr=True).status("") as status,
    ):
        try:
            places = Places(Path(base), cleanup, extent.size)
            plan = rounds.Plan(wanted, where, extent, options.rounds)
            for figures in rounds.measure(rows.WORKS, plan, places, status.update):
                found += figures
        finally:
            clean_up_whole()


def _check(options: argparse.Namespace) -> None:
    """What would else be known when all is measured. Raises BenchError."""
    needed = [options.directory, *([options.json.parent] if options.json is not None else [])]
    if missing := [str(path) for path in needed if not path.is_dir()]:
        raise BenchError(f"not a directory: {', '.join(missing)}")
    if options.markdown is not None:
        report.around(options.markdown)
    room = shutil.disk_usage(options.directory).free // MIB
    if room < _DISKS * options.mib:
        raise BenchError(
            f"{options.directory} has room for {room:,} MiB, {_DISKS * options.mib:,} are needed; "
            "name another by --directory, or less by --mib"
        )
    need("fio", "gocryptfs", "qemu-img", "qemu-storage-daemon")


if __name__ == "__main__":
    sys.exit(main())
