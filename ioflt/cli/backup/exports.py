"""`ioflt backup exports`."""

from __future__ import annotations

import click

from ioflt.cli.render import emit, json_option, moment, table
from ioflt.cli.session import connect_keys


@click.command()
@json_option
def exports(as_json: bool) -> None:
    """List the disks that are given out over NBD now: by `ioflt backup export`, or to a backup that reads so.

    Yours, and those of VMs on which you have Global.Diagnostics. One ends as its process does: kill PID.
    """
    with connect_keys() as keys:
        found = sorted(keys.exports(), key=lambda one: one.since)

    def text() -> None:
        if not found:
            print("no disk is exported")
            return
        table(
            ["VM", "DISK", "FOR", "TRANSPORT", "SINCE", "ENDS", "PID"],
            [
                [
                    each.vm,
                    each.disk,
                    each.principal,
                    each.transport,
                    moment(each.since),
                    "" if each.until is None else moment(each.until),
                    str(each.pid),
                ]
                for each in found
            ],
        )

    shown = [
        {
            "id": each.id,
            "vm": each.vm,
            "disk": each.disk,
            "for": each.principal,
            "transport": each.transport,
            "ticket": each.ticket,
            "since": each.since,
            "until": each.until,
            "pid": each.pid,
        }
        for each in found
    ]
    emit(shown, text, as_json)
