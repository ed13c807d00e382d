"""`ioflt disk`: single disks of powered-off VMs."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import click

from ioflt.cli import reporting
from ioflt.cli.hints import advising
from ioflt.cli.lazy import Entry, LazyGroup, Section
from ioflt.cli.render import emit, json_option, progress, say, size
from ioflt.cli.session import file_argument
from ioflt.errors import IofltError, UnsupportedError, UsageError

disk = LazyGroup(
    name="disk",
    help="Disks of VMs. A VM must be powered off.",
    sections=(Section("Commands", (Entry("extend", __name__, "extend", "Make a flat disk longer."),)),),
)

_CONVERT = "through a mount, qemu-img convert makes a disk of another form of it"
_RESIZE = "name the .vmdk that names this file; qcow2 and raw disks: qemu-img resize, through a mount"
_SNAPSHOTS = "remove the snapshots of the disk first"

_UNITS = "KMGTP"
_SIZE = re.compile(rf"(\+?)([0-9]{{1,18}})(?:([{_UNITS}])(?:i?B)?)?", re.IGNORECASE)


def _bytes(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[bool, int]:
    match = _SIZE.fullmatch(value)
    if match is None:
        raise UsageError(f"no size: {value!r}; write 20G for 20 GiB, or +5G for 5 GiB more")
    plus, count, unit = match.groups()
    return bool(plus), int(count) << (10 * (_UNITS.index(unit.upper()) + 1) if unit else 0)


@click.command()
@file_argument
@click.argument("length", metavar="SIZE", callback=_bytes)
@json_option
def extend(file: Path, length: tuple[bool, int], as_json: bool) -> None:
    """Make the disk FILE (DIR/VM/DISK.vmdk, its descriptor) SIZE long: 20G is 20 GiB, +5G is 5 GiB more.

    For disks of one flat extent, as imports and vSphere make them, without snapshots. What is new reads as
    zeros: a hole in a thin disk, encrypted zeros in a thick one. Partitions and file systems stay as they
    are, for the guest to grow. Run again after an interruption it goes on.
    """
    from ioflt.cli.vm import open_vms
    from ioflt.datastore import extend as extending

    directory, name, path = _parts(file)
    by, count = length
    with (
        advising(UnsupportedError, "not a flat disk|several extents", _CONVERT),
        advising(UnsupportedError, "no descriptor", _RESIZE),
        advising(IofltError, "has a (parent|snapshot)", _SNAPSHOTS),
        open_vms(directory, but=name) as volume,
    ):
        now = extending.capacity(volume, name, path)
        wanted = now + count if by else count
        changed = (f'config.disk("{path}").capacity', str(now), str(wanted))
        with (
            reporting.told(reporting.vm(directory, name), changed),
            progress(f"extending {file.name}", None) as bar,
        ):
            whole = extending.extend_disk(volume, name, path, count, by=by, progress=bar.advance)
    done = {"file": str(file), "size": whole}
    emit(done, lambda: say(f"{file}: {size(whole)} now, {whole} bytes"), as_json)


def _parts(file: Path) -> tuple[Path, str, str]:
    """The datastore, the name of the VM, and the path in it."""
    from ioflt.cli import places

    real = Path(os.path.realpath(file))
    above = places.datastore_above(real)
    if above is None:
        raise _in_no_datastore(file)
    parts = real.relative_to(above).parts
    if len(parts) < 2 or not real.is_file():
        raise UsageError("names no disk of a VM: write DIR/VM/DISK.vmdk", file=file)
    return Path(above), parts[0], os.path.join(*parts[1:])


def _in_no_datastore(file: Path) -> UsageError:
    from ioflt.cli import places

    error = UsageError("lies in no datastore: write DIR/VM/DISK.vmdk", file=file)
    behind = places.behind_mount(file)
    if behind is not None:
        error.add_note(f"this is in a mount; name what it shows: {shlex.quote(behind)}")
    return error
