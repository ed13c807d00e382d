"""What the servers of a kmip provider show of themselves, for people to compare before they are trusted."""

from __future__ import annotations

import trio

from ioflt.errors import ProviderUnavailable
from ioflt.keys.kmip.file import KmipServer
from ioflt.keys.kmip.store import KmipStore
from ioflt.transport import tls


def look(store: KmipStore, name: str) -> dict[KmipServer, bytes]:
    """The certificate (DER) of each server, which nothing vouches for. Raises ProviderUnavailable."""
    file, identity = store.load(name), store.identity(name)

    async def shown(server: KmipServer) -> bytes:
        with trio.fail_after(file.timeout):
            return await tls.peek(server.host, server.port, identity if identity.exists() else None)

    found = {}
    for server in file.servers:
        try:
            found[server] = trio.run(shown, server)
        except trio.TooSlowError:
            raise ProviderUnavailable(f"{server}: no answer within {file.timeout:g} seconds") from None
        except tls.TlsFailed as error:
            raise ProviderUnavailable(f"{server} does not show its certificate: {error}") from error
    return found
