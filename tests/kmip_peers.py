"""What tests of the kmip provider share: PyKMIP servers, and providers that trust them."""

from __future__ import annotations

from pathlib import Path

from ioflt.keys.kmip.file import KmipServer as Server
from ioflt.keys.kmip.provider import KmipProvider
from ioflt.keys.kmip.store import KmipStore
from ioflt.testing.pykmip import HOST, Authority


def store_in(directory: Path) -> KmipStore:
    """A store in a new directory."""
    directory.mkdir(mode=0o700)
    return KmipStore(directory)


def make(
    store: KmipStore,
    authority: Authority,
    *ports: int,
    name: str = "corp",
    host: str = HOST,
    trusted: Authority | None = None,
    seconds: float = 5.0,
) -> KmipProvider:
    """A provider with these servers, whose certificate `authority` signed, and who trusts `trusted` or it."""
    servers = [Server(host=host, port=port) for port in ports]
    request = store.create(name, servers, seconds, csr=True)
    store.install(name, authority.sign(request))
    store.trust_authority(name, (trusted or authority).path.read_text())
    return KmipProvider(store.load(name), store)
