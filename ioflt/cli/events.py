"""`ioflt events`: the event log of this machine's keyd, for people and for scripts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from ioflt.cli.exits import Exit
from ioflt.cli.render import describe, emit, json_option, printable, say, warn
from ioflt.cli.session import connect_keys, event_files, events_directory
from ioflt.errors import UsageError

if TYPE_CHECKING:
    from ioflt.audit.chain import Head
    from ioflt.audit.event import Event
    from ioflt.audit.reader import Read
    from ioflt.wire.keyd.values import EventSink


@click.group(invoke_without_command=True)
@click.option("--since", metavar="TIME", help="From that time on: 2026-03-01 or 2026-03-01T12:00:00Z.")
@click.option("--vm", metavar="VM", help="About that VM, by name or id, and the keys that it had since.")
@click.option("--who", metavar="PRINCIPAL", help="By that principal: alice, or user:alice.")
@click.option("--type", "operation", metavar="OPERATION", help='Of that operation, such as "vm export".')
@click.option("--folder", metavar="NAME", help="Of what lies in that folder, from a log of its own.")
@click.option("--follow", is_flag=True, help="Go on with those that come, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON value; with --follow one on each line.")
@click.pass_context
def events(
    context: click.Context,
    since: str | None,
    vm: str | None,
    who: str | None,
    operation: str | None,
    folder: str | None,
    follow: bool,
    as_json: bool,
) -> None:
    """What happened, who did it, what it was before and is now.

    The owner of keyd's state reads its files; others ask keyd, which wants Global.Diagnostics
    on everything; with --folder, on the folder.

    Without a subcommand the events are listed, the oldest first.
    """
    if context.invoked_subcommand is not None:
        return
    from ioflt.audit import reader

    wanted = _filter(since, vm, who, operation)
    if follow:
        _follow(wanted, folder, as_json)
        return
    with event_files(folder) as files:
        found = [each for each in reader.read(files) if wanted(each.event)]

    def show() -> None:
        click.echo("".join(f"{_shown(each.event)}\n" for each in found), nl=False)

    emit([_json(each.sequence, each.event) for each in found] if as_json else None, show, as_json)


@events.command()
@click.option("--head", metavar="NUMBER:HASH", help="A head noted before: the log must still contain it.")
@click.option("--folder", metavar="NAME", help="The log that this folder has of its own.")
@json_option
def verify(head: str | None, folder: str | None, as_json: bool) -> None:
    """Whether a line of the log was changed, removed, moved or put in, or what was set aside after a crash.

    Prints the log's head. Keep it elsewhere: that the end of the log was cut off or written anew shows only
    against an earlier head (--head).
    """
    from ioflt import paths
    from ioflt.audit import reader

    known = None if head is None else _head(head)
    with event_files(folder) as files:
        result = reader.verify(files, known)
    where = paths.find()
    if not where.joined:  # keyd gives out the log's lines
        result = replace(
            result, findings=(*result.findings, *reader.set_aside(events_directory(where, folder)))
        )

    def show() -> None:
        for each in result.findings:
            click.echo(printable(f"{each.file}: line {each.line}: {each.fault}: {each.detail}"))
        if result.head is not None:
            click.echo(f"head {result.head}")

    emit(
        {
            "sound": not result.findings,
            "lines": result.lines,
            "head": None if result.head is None else str(result.head),
            "torn": result.torn,
            "findings": [
                {"file": each.file, "line": each.line, "fault": each.fault, "detail": each.detail}
                for each in result.findings
            ],
        },
        show,
        as_json,
    )
    if result.torn:
        warn(f"{result.torn} bytes at the end are no whole line: keyd writes one now, or ended in one")
    if result.findings:
        raise click.exceptions.Exit(Exit.FOUND)
    if not as_json:
        say(f"{result.lines} lines, each follows on the one before")


@events.command(name="set")
@click.option(
    "--required", type=click.Choice(["yes", "no"]), help="Whether what cannot be logged is refused."
)
@click.option("--sink", type=click.Choice(["none", "journal", "syslog"]), help="Who else is told of events.")
@json_option
def set_(required: str | None, sink: EventSink | None, as_json: bool) -> None:
    """Show or change how keyd logs. A change is an event itself.

    A sink is told of each event, with the head of the log; nothing waits for it.
    """
    with connect_keys() as keys:
        found = keys.set_event_log(None if required is None else required == "yes", sink)
    settings = {"required": found.required, "sink": found.sink}
    emit(settings, lambda: describe(settings), as_json)


def _follow(wanted: Callable[[Event], bool], folder: str | None, as_json: bool) -> None:
    """Print what is there, and then what comes, until Ctrl-C."""
    import json

    with suppress(KeyboardInterrupt), _coming(folder) as found:
        for each in found:
            if wanted(each.event):
                one = json.dumps(_json(each.sequence, each.event)) if as_json else _shown(each.event)
                click.echo(one)


@contextmanager
def _coming(folder: str | None) -> Iterator[Iterator[Read]]:
    """All events and those that come: from the files for their owner, from keyd for others."""
    from functools import partial

    from ioflt import paths, syscalls
    from ioflt.audit import reader

    where = paths.find().ensure()
    if where.joined:
        with connect_keys() as keys:
            yield reader.follow(partial(keys.next_events, folder=folder), lambda: None)  # keyd waits
        return
    directory = events_directory(where, folder)
    with syscalls.watching(directory) as wait:
        yield reader.follow(reader.pages(directory), wait)


def _shown(event: Event) -> str:
    """As vSphere words it, after its time."""
    from ioflt.audit.event import text

    return f"{event.time:%Y-%m-%d %H:%M:%S} {text(event, os.uname().nodename)}".rstrip()


def _filter(
    since: str | None, vm: str | None, who: str | None, operation: str | None
) -> Callable[[Event], bool]:
    from ioflt.access.operations import base
    from ioflt.audit.uses import keys_named

    if operation is not None:
        _check_type(operation)
    begin = None if since is None else _time(since)
    person = None if who is None else who if ":" in who else f"user:{who}"

    keys: set[str] = set()  # of the VM, as far as the events before tell

    def of_vm(event: Event) -> bool:
        about = event.object
        if about is None:
            return False
        if about.kind == "key":
            return about.id in keys
        found = about.kind == "vm" and vm in (about.id, about.shown)
        if found:
            keys.update(keys_named(event))
        return found

    def wanted(event: Event) -> bool:
        if vm is not None and not of_vm(event):  # of all events in their order: they tell of its keys
            return False
        return (
            (begin is None or event.time >= begin)
            and (operation is None or operation in (event.operation, base(event.operation)))
            and (person is None or person in (event.by.who, event.by.as_principal))
        )

    return wanted


def _check_type(operation: str) -> None:
    """Raises UsageError, which names the nearest one, for what no event is called."""
    from ioflt.access.operations import OPERATIONS, base
    from ioflt.keyd import reports
    from ioflt.spelling import meant

    known = {*OPERATIONS, *map(base, OPERATIONS), *reports.BY_MOUNTS, *reports.BY_ANY, *reports.BY_KEYD}
    if operation not in known:
        raise UsageError(f"no event is called {ascii(operation)[:80]}{meant(operation, sorted(known))}")


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        example = "2026-03-01 or 2026-03-01T12:00:00Z"
        raise UsageError(f"no time: {ascii(text)[:80]}; write {example}") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _head(text: str) -> Head:
    from ioflt.audit.chain import parse_head
    from ioflt.errors import MalformedError

    try:
        return parse_head(text)
    except MalformedError:
        raise UsageError(f"no head of an event log: {ascii(text)[:80]}") from None


def _json(sequence: int, event: Event) -> dict[str, Any]:
    """Its line's number, and all its fields."""
    from msgspec import Struct

    def plain(value: object) -> object:
        if isinstance(value, Struct):
            return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        if isinstance(value, datetime):
            return value.isoformat().replace("+00:00", "Z")
        return [plain(item) for item in value] if isinstance(value, tuple) else value

    return {"seq": sequence} | {name: plain(getattr(event, name)) for name in event.__struct_fields__}
