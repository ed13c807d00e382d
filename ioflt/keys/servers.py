"""On which servers the keys of a provider are, whatever its kind: as its file says, nobody is asked."""

from __future__ import annotations

from pathlib import Path

from ioflt.errors import IofltError
from ioflt.keys.directory import ProviderDirectory
from ioflt.keys.kmip import file as kmip
from ioflt.keys.transit import file as transit


def addresses(directory: Path, name: str) -> list[str]:
    """HOST:PORT of each server that has the provider's keys; none for one without, unknown or broken."""
    try:
        data = ProviderDirectory(directory).read(name)
        match ProviderDirectory(directory).kind(name):
            case kmip.KIND:
                return [str(server) for server in kmip.parse(data).servers]
            case "transit":
                return [transit.parse(data).server]
    except IofltError:  # whoever uses the provider hears of it
        pass
    return []
