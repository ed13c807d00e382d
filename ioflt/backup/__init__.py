"""Virtual disks read by transport modes, exports of them, backups of VMs and what is restored from those.

For programs: the names below, and `aio` under trio. README has an example.

    transports, disk, direct, aio                   a VM's disk read by a mode; what each mode gives
    flat, images                                    disks in files: of any mode, and of points
    export, exporter, known, ticket, pinned, bitmap a disk given out over NBD: for whom, and for how long
    place, privatemount, listening, nbdserver       what an export is made of
    nbdclient, vddk                                 its reader; VMware's numbers for our errors
    hotadd, proxy, buses                            a disk in a proxy VM
    running, freeze, freespace                      a VM that runs in QEMU, backed up
    qmp, blocknodes, mountedfiles, qemunames        what there is in somebody's QEMU, and what of it is ours
    repository, shelf, listing, sealing, proved     a destination, its points, their signatures and bytes
    run, sources, homefiles, increments             a backup made
    quiet, writers, settling                        of a VM that is in use, through its mounts
    verify, prune, retention, replicate             points kept
    restore, filling, putback, copying              a VM made anew
    signals, children                               what ends early, and programs that work for us
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ioflt.backup.disk import VirtualDisk, aligned
    from ioflt.backup.transports import OPENERS, open_datastore, open_disk
    from ioflt.backup.vddk import number_of
    from ioflt.types import Area

__all__ = ["OPENERS", "Area", "VirtualDisk", "aligned", "number_of", "open_datastore", "open_disk"]

_PLACES = {
    "Area": "ioflt.types",
    "OPENERS": "ioflt.backup.transports",
    "VirtualDisk": "ioflt.backup.disk",
    "aligned": "ioflt.backup.disk",
    "number_of": "ioflt.backup.vddk",
    "open_datastore": "ioflt.backup.transports",
    "open_disk": "ioflt.backup.transports",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  # imported when it is used: commands load a part of it
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
