"""Trying a kmip provider out, step by step: every server of it, and a key on each."""

from __future__ import annotations

import msgspec
import trio

from ioflt.crypto import certificates
from ioflt.crypto.secret import Secret
from ioflt.errors import IofltError, KeyCorrupt, ProviderUnavailable
from ioflt.keys.kmip.cluster import Cluster, Connection
from ioflt.keys.kmip.file import KmipFile, KmipServer
from ioflt.keys.kmip.keys import KmipKeys
from ioflt.keys.kmip.provider import KmipProvider
from ioflt.keys.kmip.store import KmipStore
from ioflt.keys.trial import Step, Tell
from ioflt.transport.tls import Trust
from ioflt.wire.kmip.enumerations import RevocationReasonCode


def try_provider(store: KmipStore, name: str, tell: Tell) -> bool:
    """`try_out` of the provider that its files say. Raises ProviderUnavailable while it lacks something."""
    provider = KmipProvider(store.load(name), store)
    missing = provider.missing()
    if missing:
        raise ProviderUnavailable(missing)
    return try_out(provider.file, store.trust(provider.file), provider.tags(), tell)


def try_out(file: KmipFile, trust: Trust, tags: list[tuple[str, str]], tell: Tell) -> bool:
    """Connect to every server, make a key, get it from each, destroy it. Whether all of it went well."""
    return trio.run(_Trial(file, trust, tell).run, tags)


class _Trial:
    def __init__(self, file: KmipFile, trust: Trust, tell: Tell) -> None:
        self._file = file
        self._trust = trust
        self._tell = tell
        self._well = True

    async def run(self, tags: list[tuple[str, str]]) -> bool:
        good = [server for server in self._file.servers if await self._greets(server)]
        if good:
            clusters = {server: self._alone(server) for server in good}
            try:
                async with trio.open_nursery() as nursery:
                    keys = {one: KmipKeys(self._file.name, clusters[one], nursery) for one in good}
                    await self._key(keys, tags)
                    nursery.cancel_scope.cancel()
            finally:
                for cluster in clusters.values():
                    cluster.close()
        return self._well

    def _alone(self, server: KmipServer) -> Cluster:
        return Cluster(msgspec.structs.replace(self._file, servers=(server,)), self._trust)

    async def _greets(self, server: KmipServer) -> bool:
        connection: Connection | None = None
        try:
            connection = await Cluster(self._file, self._trust).open(server)
            self._connected(server, connection)
        except IofltError as error:
            self._failed(server, "connect", error)
            return False
        finally:
            if connection is not None:
                connection.close()
        return True

    def _connected(self, server: KmipServer, connection: Connection) -> None:
        told = certificates.read(certificates.to_pem(connection.certificate))[0]
        self._tell(Step(str(server), "connect", connection.tls_version))
        self._tell(Step(str(server), "certificate", f"{told.subject}, valid until {told.not_after:%Y-%m-%d}"))
        self._tell(Step(str(server), "version", f"KMIP {connection.version}"))

    async def _key(self, keys: dict[KmipServer, KmipKeys], tags: list[tuple[str, str]]) -> None:
        first = next(iter(keys))
        try:
            key_id = await keys[first].create(tags)
        except IofltError as error:
            self._failed(first, "make a key", error)
            return
        self._tell(Step(str(first), "make a key", key_id))
        got: list[Secret] = []
        for server, one in keys.items():
            await self._gets(server, one, key_id, got)
        for key in got:
            key.wipe()
        try:
            await keys[first].revoke(key_id, RevocationReasonCode.CESSATION_OF_OPERATION)
            await keys[first].destroy(key_id)
        except IofltError as error:
            self._failed(first, "destroy it", error)
            return
        self._tell(Step(str(first), "destroy it", "done"))

    async def _gets(self, server: KmipServer, keys: KmipKeys, key_id: str, got: list[Secret]) -> None:
        (found,) = await keys.fetch([key_id])
        if isinstance(found, Secret) and got and found != got[0]:
            found = KeyCorrupt("it has another key under this id: it does not belong to this cluster")
        if isinstance(found, Secret):
            got.append(found)
            self._tell(Step(str(server), "get it back", "done"))
        else:
            self._failed(server, "get it back", found)

    def _failed(self, server: KmipServer, step: str, error: IofltError) -> None:
        self._well = False
        self._tell(Step(str(server), step, "failed", str(error)))
