"""`ioflt backup hotadd`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ioflt.cli import reporting
from ioflt.cli.disk_advice import NO_QEMU
from ioflt.cli.hints import advising
from ioflt.cli.render import json_option, say
from ioflt.cli.session import home_argument, open_volume
from ioflt.errors import DeniedError, NotFoundError, PeerError

if TYPE_CHECKING:
    from ioflt.backup.exporter import Exporter
    from ioflt.backup.hotadd import HotAdded

#: In the environment of COMMAND: the serial number of the disk in the proxy VM.
SERIAL = "IOFLT_SERIAL"

#: The exit code of a command that was not there, as shells have it, and of one that a signal ended.
_SIGNAL = 128


@click.command()
@home_argument
@click.argument("disk", metavar="DISK")
@click.argument("command", metavar="[-- COMMAND...]", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--qmp",
    metavar="SOCKET",
    required=True,
    type=click.Path(readable=False, path_type=Path),
    help="The monitor of the proxy VM's QEMU.",
)
@click.option("--bus", metavar="NAME", help="QEMU's name of the bus; else the first that takes a disk.")
@click.option("--remove", is_flag=True, help="Only remove what a killed run left in the proxy VM.")
@json_option
def hotadd(
    home: tuple[Path, str],
    disk: str,
    command: tuple[str, ...],
    qmp: Path,
    bus: str | None,
    remove: bool,
    as_json: bool,
) -> int:
    """Plug DISK of a VM read-only into a running proxy VM, where a backup agent reads it.

    It stays there in the foreground until Ctrl-C or SIGTERM, or while COMMAND runs, which gets its serial
    number as $IOFLT_SERIAL and gives the exit code; then it is taken out again, in every case. It is found in
    the proxy VM by that number: /dev/disk/by-id/*SERIAL.

    DISK is the file of the VM that its VMX names, as web01.vmdk. It becomes a SCSI disk where the proxy VM
    has a virtio-scsi or pvscsi controller, else a virtio one. For a disk of an encrypted VM whatever the
    proxy VM can write to has to be an encrypted file in a mount of this host, too.
    """
    from ioflt import paths
    from ioflt.backup import direct, proxy, signals
    from ioflt.backup import hotadd as plugging
    from ioflt.backup.exporter import Exporter
    from ioflt.backup.qmp import Monitor
    from ioflt.types import HomeState

    directory, name = home
    if paths.find().joined:  # a mount is made for it
        raise DeniedError("root makes the mounts of this machine")
    with (
        signals.heard(),
        advising(PeerError, "^nobody listens", NO_QEMU),
        open_volume(directory, read_only=True) as volume,
    ):
        found = volume.home(name)
        direct.open_file(volume, name, disk).close()  # keyd says whether the disk may be given to him
        with Monitor(qmp) as monitor:
            removed = plugging.remove_leftovers(monitor)
            for serial in removed:
                say(f"{qmp}: removed what a killed run left, {serial}")
            if remove:
                if as_json:
                    print(json.dumps({"removed": removed}))
                return 0
            if found.standing().state is HomeState.ENCRYPTED:
                proxy.check_encrypted(monitor, volume.keys, plugging.PREFIX)
            changes = (("hotadd.disk", None, disk), ("hotadd.proxy", None, os.path.abspath(qmp)))
            with (
                reporting.told(reporting.vm(directory, name), *changes),
                Exporter(volume, name, disk) as export,
                plugging.hot_added(monitor, export.exported, bus) as added,
            ):
                _show(disk, added, as_json)
                return _wait(added, export, command)


def _show(disk: str, added: HotAdded, as_json: bool) -> None:
    if as_json:
        told = {"disk": disk, "serial": added.serial, "bus": added.bus.name, "model": added.bus.model}
        print(json.dumps(told), flush=True)
        return
    say(f"{disk} is in the VM as {added.serial}, {added.bus.model} on {added.bus.name}")


def _wait(added: HotAdded, export: Exporter, command: tuple[str, ...]) -> int:
    """Until the command ends, or a signal comes. The exit code."""
    from ioflt.backup import signals

    if not command:
        say("until Ctrl-C")
        try:
            added.wait(export.fileno())
        except signals.Told:
            return 0
        raise export.failure()
    try:
        process = subprocess.Popen(command, env={**os.environ, SERIAL: added.serial})
    except (FileNotFoundError, PermissionError) as error:
        raise NotFoundError(f"cannot be run: {error.strerror}", file=command[0]) from error
    ended = os.pidfd_open(process.pid)
    try:
        if added.wait(ended, export.fileno()) != ended:
            raise export.failure()
        code = process.wait()
        return code if code >= 0 else _SIGNAL - code
    finally:
        os.close(ended)
        if process.poll() is None:
            process.terminate()
            process.wait()
