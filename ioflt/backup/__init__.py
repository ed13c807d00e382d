"""Virtual disks read by transport modes, exports of them, backups of VMs and what is restored from those.

For programs: the names below, and `aio` under trio. README has an example.
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
