"""`ioflt health`: everything that somebody should look at, in one answer for people and for monitoring."""

from __future__ import annotations

import os
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ioflt.cli.exits import Exit
from ioflt.cli.hints import hint_for, with_advice
from ioflt.cli.render import emit, json_option, printable, progress
from ioflt.cli.session import connect_keys, events_directory
from ioflt.errors import DeniedError, IofltError, NotFoundError, ProviderUnavailable

if TYPE_CHECKING:
    from ioflt.audit.event import Event, Thing
    from ioflt.cli.prometheus import Metric
    from ioflt.keys.client import KeyClient
    from ioflt.types import KeyRef

#: For how many days sectors that did not verify are told of: when they were mended no event tells.
_DAMAGE_DAYS: Final = 7

#: Sorts of problems that are this machine's, and that of a datastore that does not open.
_HOST: Final = ("provider", "certificate", "events", "integrity", "warning")
_UNREADABLE: Final = "unreadable"


@dataclass(frozen=True, slots=True)
class _Problem:
    """`subject`: a path, or a provider's name; empty: this machine. `mend`: a command or an advice."""

    kind: str
    subject: str
    problem: str
    mend: str | None


@dataclass(frozen=True, slots=True)
class _Datastore:
    """`vms`: how many in each state."""

    directory: str
    vms: dict[str, int]
    problems: list[_Problem]


@dataclass(frozen=True, slots=True)
class _Report:
    sound: bool
    problems: list[_Problem]
    datastores: list[_Datastore] = field(default_factory=list)


@click.command()
@click.argument("directories", metavar="[DIR]...", nargs=-1, type=click.Path(readable=False, path_type=Path))
@click.option(
    "--prometheus",
    metavar="FILE",
    type=click.Path(readable=False, path_type=Path),
    help="Write the numbers to FILE, too, for the node exporter of Prometheus.",
)
@json_option
def health(directories: tuple[Path, ...], prometheus: Path | None, as_json: bool) -> int:
    """Look for what needs somebody: in the datastores DIR, else in all that were opened on this machine.

    Locked VMs and datastores, unfinished operations, departures from storage policies; key providers that are
    locked or do not answer, certificates near their end, a broken event log, sectors that did not verify in
    the last 7 days, what was never backed up.
    Nothing is changed.

    Exits with 0 only if nothing was found, with 13 if something was.
    """
    from ioflt.datastore import seen

    places = [str(one) for one in directories] or seen.places()
    needed: list[KeyRef] = []
    with connect_keys() as keys:
        found = [_look(place, keys, needed) for place in places]
        host = [*_of_host(keys, needed), *_of_events(keys)]
    sound = not host and not any(one.problems for one in found)
    report = _Report(sound, host, found)
    if prometheus is not None:
        from ioflt.cli import prometheus as exposition

        exposition.write(prometheus, _metrics(report))
    emit(report, lambda: _show(report), as_json)
    return Exit.OK if sound else Exit.FOUND


def _look(place: str, keys: KeyClient, needed: list[KeyRef]) -> _Datastore:
    """One datastore; `needed` gets a key of each provider that it needs."""
    from ioflt.datastore import health as datastore_health
    from ioflt.datastore.volume import Volume

    try:
        with (
            Volume.open(place, keys, read_only=True, locked=lambda *_: None) as volume,
            progress(f"looking at {place}", None, files=True) as bar,
        ):
            found = datastore_health.look(volume, bar.advance)
    except IofltError as error:
        mend = None if isinstance(error, NotFoundError) else hint_for(error)  # it moved, or is not there now
        problem = _Problem(_UNREADABLE, place, error.message, mend)
        return _Datastore(place, {}, [problem])
    needed += found.keys
    problems = [_Problem(one.kind, one.path, one.problem, one.mend) for one in found.problems]
    return _Datastore(place, dict(found.vms), problems)


def _of_host(keys: KeyClient, needed: list[KeyRef]) -> Iterator[_Problem]:
    """Providers that are not ready, or do not answer now, and what keyd warns of."""
    one_of_each = list({key.provider: key for key in needed}.values())
    states = keys.key_states(one_of_each)
    silent = {
        key.provider: state.missing
        for key, state in zip(one_of_each, states, strict=True)
        if isinstance(state.missing, ProviderUnavailable)
    }
    for provider in keys.status().providers:
        if provider.name in silent:
            why = silent[provider.name]
            yield _Problem("provider", provider.name, why.message, hint_for(why))
        elif provider.state != "ready":
            unlock = f"ioflt keyd unlock {shlex.quote(provider.name)}" if provider.state == "locked" else None
            yield _Problem("provider", provider.name, provider.reason or provider.state, unlock)
    for line in keys.warnings():
        kind = "certificate" if "certificate" in line else "warning"
        advised = with_advice(line)
        yield _Problem(kind, "", line, advised.removeprefix(f"{line}; ") if advised != line else None)


def _of_events(keys: KeyClient) -> Iterator[_Problem]:
    """Whether the event log and those of folders are whole, and what they tell of data, for who may read."""
    from ioflt import paths
    from ioflt.audit import reader

    where = paths.find()
    damage: dict[tuple[datetime, Thing | None], Event] = {}  # what is in two logs is told of once
    for folder in (None, *_folders_with_events(keys)):
        about, option = ("", "") if folder is None else (f"folder:{folder}", f" --folder {folder}")
        try:
            joined = where.joined
            files = list(
                keys.event_files(folder) if joined else reader.on_disk(events_directory(where, folder))
            )
            found = reader.verify(files).findings
        except DeniedError:
            continue
        except NotFoundError as error:  # its first line was written when it was said that it has one
            yield _Problem("events", about, error.message, None)
            continue
        if found:
            what = f"the event log is broken, first at line {found[0].line} of {found[0].file}"
            yield _Problem("events", about, what, f"ioflt events verify{option}")
        for each in reader.of_operation(files, "integrity failure"):
            damage.setdefault((each.event.time, each.event.object), each.event)
    yield from _damaged(damage.values())


def _folders_with_events(keys: KeyClient) -> list[str]:
    """As far as one sees them; none while nobody knows who may see what."""
    with suppress(IofltError):
        return [each.name for each in keys.access().folders if each.events]
    return []


def _damaged(events: Iterable[Event]) -> Iterator[_Problem]:
    """Of each VM, or datastore for what is in none, that sectors did not verify of late."""
    since = datetime.now(UTC) - timedelta(days=_DAMAGE_DAYS)
    last: dict[str, str] = {}
    times = Counter[str]()
    for event in events:
        if event.time < since or event.object is None:
            continue
        around = "" if event.datastore is None else event.datastore.shown
        place = os.path.join(around, event.object.shown)
        times[place] += 1
        last[place] = next((str(each.after) for each in event.changes if each.path == "file"), "")
    for place, file in last.items():
        told = f"sectors did not verify, {times[place]} times in the last {_DAMAGE_DAYS} days, last in {file}"
        yield _Problem("integrity", place, told, f"ioflt check --data {shlex.quote(place)}")


def _show(report: _Report) -> None:
    for one in report.datastores:
        counted = ", ".join(f"{count} {state}" for state, count in one.vms.items())
        print(printable(f"{one.directory}: {counted or 'no VM'}"))
    for problem in [*(problem for one in report.datastores for problem in one.problems), *report.problems]:
        subject = f" {problem.subject}:" if problem.subject else ""
        print(printable(f"{problem.kind}:{subject} {problem.problem}"))
        if problem.mend is not None:
            print(printable(f"    {problem.mend}"))


def _metrics(report: _Report) -> list[Metric]:
    from ioflt.datastore.health import KINDS

    counts: list[tuple[dict[str, str], int]] = []
    for one in report.datastores:
        found = Counter(problem.kind for problem in one.problems)
        place = os.path.abspath(one.directory)
        counts += [({"datastore": place, "kind": kind}, found[kind]) for kind in (*KINDS, _UNREADABLE)]
    host = Counter(problem.kind for problem in report.problems)
    counts += [({"datastore": "", "kind": kind}, host[kind]) for kind in _HOST]
    vms = [
        ({"datastore": os.path.abspath(one.directory), "state": state}, count)
        for one in report.datastores
        for state, count in one.vms.items()
    ]
    return [
        ("ioflt_problems", "What ioflt health found, by datastore; without one, on this machine.", counts),
        ("ioflt_vms", "VMs by their state.", vms),
        (
            "ioflt_health_time_seconds",
            "When ioflt health looked, in seconds since 1970.",
            [({}, int(time.time()))],
        ),
    ]
