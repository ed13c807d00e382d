"""The disks that a VM's configuration attaches."""

from __future__ import annotations

import re
from typing import Final

from ioflt.errors import UnsupportedError
from ioflt.format.dictionary import Dictionary
from ioflt.format.vmdk.descriptor import confine

_DRIVE: Final = re.compile(r"(ide|scsi|sata|nvme)[0-9]{1,2}:[0-9]{1,2}\.filename", re.ASCII)


def attached(config: Dictionary) -> list[str]:
    """Names of the files of these disks.

    Raises MalformedError "disk name not confined", UnsupportedError "one disk attached twice".
    """
    names: list[str] = []
    for key, value in config.items():
        device = key.rpartition(".")[0]
        present = config.get(f"{device}.present", "TRUE").upper() == "TRUE"
        if present and _DRIVE.fullmatch(key.lower()):
            kind = config.get(f"{device}.deviceType", "disk").lower()
            if "disk" in kind and not value.lower().endswith(".iso"):
                names.append(confine(value, "disk"))
    if len(set(names)) != len(names):
        raise UnsupportedError("one disk attached twice")
    return names
