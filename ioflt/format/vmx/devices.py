"""What a VMX says of the devices that encryption has to do with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from ioflt.format.dictionary import Dictionary

_DRIVE: Final = re.compile(r"(?:ide|scsi|sata|nvme)[0-9]{1,2}:[0-9]{1,2}", re.ASCII | re.IGNORECASE)
_PORT: Final = re.compile(r"(?:serial|parallel)[0-9]{1,2}", re.ASCII | re.IGNORECASE)


def drives(config: Dictionary) -> list[tuple[str, str]]:
    """Each drive that is present, and the file that it is attached to."""
    return [
        (device, config[f"{device}.fileName"])
        for device in _devices(config, _DRIVE)
        if f"{device}.fileName" in config
    ]


def shared_by_writers(config: Dictionary) -> list[tuple[str, str]]:
    """The drives that several VMs may write to at once, and their files."""
    return [
        (device, name)
        for device, name in drives(config)
        if config.get(f"{device}.sharing", "").lower() == "multi-writer"
    ]


def ports_to_files(config: Dictionary) -> list[tuple[str, str]]:
    """The serial and parallel ports whose output goes to a file, and that file."""
    return [
        (port, config.get(f"{port}.fileName", ""))
        for port in _devices(config, _PORT)
        if config.get(f"{port}.fileType", "").lower() == "file"
    ]


def _devices(config: Dictionary, pattern: re.Pattern[str]) -> Iterator[str]:
    """Names of devices that are present, sorted; one that is not said to be absent is."""
    names = {key.partition(".")[0].lower() for key in config}
    for name in sorted(names):
        if pattern.fullmatch(name) and config.get(f"{name}.present", "TRUE").upper() == "TRUE":
            yield name
