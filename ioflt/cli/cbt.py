"""`ioflt cbt`: changed block tracking of the disks of VMs, running or not."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ioflt.cli import reporting
from ioflt.cli.hints import advising
from ioflt.cli.lazy import Entry, LazyGroup, Section
from ioflt.cli.render import emit, json_option, say, size
from ioflt.cli.session import home_argument
from ioflt.errors import ChangesUnknownError, NotFoundError, UnsupportedError
from ioflt.format.cbt import changeid
from ioflt.format.cbt.changeid import ALL, ChangeId

if TYPE_CHECKING:
    from ioflt.datastore.home import Home

_Command = TypeVar("_Command", bound=Callable[..., object])

_EXAMPLES = """
Track the changes of a disk, and ask for what is allocated now:

  ioflt cbt enable /srv/ds/web01 web01.vmdk
  ioflt cbt query /srv/ds/web01 web01.vmdk

Copy that. Later, what changed since, by the change id that was printed:

  ioflt cbt query /srv/ds/web01 web01.vmdk \\
      --since '52 ab f5 21 86 ad f2 ff-5b ef c0 f2 3b 53 eb 3b/78'
"""

cbt = LazyGroup(
    name="cbt",
    help="Changed blocks of disks: which areas of 64 KiB changed since a change id.\n\nFor raw disks, and"
    " VMDKs of flat extents. What is written through mounts counts, over restarts; after a crash, or a change"
    " behind their back, change ids of before are refused, and a full backup is due.",
    manual=(("Examples", _EXAMPLES),),
    sections=(
        Section(
            "Commands",
            (
                Entry("enable", __name__, "enable", "Track the changed blocks of a disk."),
                Entry("disable", __name__, "disable", "Track them no more."),
                Entry("query", __name__, "query", "What changed since a change id."),
            ),
        ),
    ),
)

_FORMATS = "raw disks and VMDKs of flat extents are tracked; through a mount, qemu-img convert makes them"
_QCOW2 = "qcow2 has dirty bitmaps of its own: qemu-img bitmap --add, on a mount"


def _disk(command: _Command) -> _Command:
    """Add the arguments `DIR/VM` and `DISK`."""
    return home_argument(click.argument("disk", metavar="DISK")(command))


@click.command()
@_disk
@json_option
def enable(home: tuple[Path, str], disk: str, as_json: bool) -> None:
    """Track the changed blocks of DISK of DIR/VM, its path in the VM, from now on.

    Of a VMDK that is its descriptor. The VM may be running, through a mount of this machine.
    """
    _switch(home, disk, as_json, on=True)


@click.command()
@_disk
@json_option
def disable(home: tuple[Path, str], disk: str, as_json: bool) -> None:
    """Track the changed blocks of DISK of DIR/VM no more. Its change ids are worth nothing then."""
    _switch(home, disk, as_json, on=False)


@click.command()
@_disk
@click.option(
    "--since", metavar="ID", default=ALL, help="What changed since; default: *, all allocated areas."
)
@json_option
def query(home: tuple[Path, str], disk: str, since: str, as_json: bool) -> None:
    """Print the change id of this moment, and which areas of DISK of DIR/VM changed since ID.

    Without ID, or for *, all that is allocated. Ask with the printed id the next time: what changes from now
    on changed after it. Areas are in bytes of the disk: start, length.
    """
    from ioflt.datastore import cbt as tracking

    known = None if since == ALL else changeid.parse(since)
    asked = (f'changedBlocks("{disk}").since', None, since)
    with _opened(home, disk) as opened, reporting.told(reporting.vm(*home), asked):
        now = tracking.take(opened, disk)  # first: what changes in between is named twice, never missed
        areas = tracking.query(opened, disk, known)
    data = {
        "file": os.path.join(*home, disk),
        "change_id": str(now),
        "since": since,
        "areas": [{"start": start, "length": length} for start, length in areas],
    }
    emit(data, lambda: _show(now, areas), as_json)


def _show(now: ChangeId, areas: list[tuple[int, int]]) -> None:
    print(now)
    for start, length in areas:
        print(start, length)
    areas_told = f"{len(areas)} area{'' if len(areas) == 1 else 's'}"
    say(f"{areas_told}, {size(sum(length for _, length in areas))}")


def _switch(home: tuple[Path, str], disk: str, as_json: bool, *, on: bool) -> None:
    from ioflt.datastore import cbt as tracking

    setting = (f'config.disk("{disk}").changeTrackingEnabled', str(not on).lower(), str(on).lower())
    with _opened(home, disk) as opened, reporting.told(reporting.vm(*home), setting):
        changed = (tracking.enable if on else tracking.disable)(opened, disk)
    file = os.path.join(*home, disk)
    now = "tracked from now on" if on else "tracked no more"
    told = f"are {now}" if changed else f"were {'tracked already' if on else 'not tracked'}"
    emit(
        {"file": file, "tracked": on, "changed": changed},
        lambda: say(f"{file}: its changed blocks {told}"),
        as_json,
    )


@contextmanager
def _opened(home: tuple[Path, str], disk: str) -> Iterator[Home]:
    from ioflt.cli.session import open_volume

    directory, name = home
    named = f"{shlex.quote(str(directory / name))} {shlex.quote(disk)}"
    with (
        advising(NotFoundError, "not tracked", f"ioflt cbt enable {named}"),
        advising(
            NotFoundError,
            "no such disk",
            f"see its files: ioflt vm show {shlex.quote(str(directory / name))}",
        ),
        advising(UnsupportedError, "cannot be tracked", _FORMATS),
        advising(UnsupportedError, "it is qcow2", _QCOW2),
        advising(ChangesUnknownError, "", f"take all that is allocated: ioflt cbt query {named}"),
        open_volume(directory) as volume,
    ):
        yield volume.home(name)
