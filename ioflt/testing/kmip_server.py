"""A small KMIP server in a thread, on ioflt's own codec: for what PyKMIP does not do.

It keeps the attributes that clients give to keys, speaks TLS 1.3, and can be told to misbehave. Everything is
in memory.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, TypeAlias

import msgspec
import trio

from ioflt.crypto.rng import new_uuid, random_bytes
from ioflt.crypto.secret import Secret
from ioflt.wire.frame import Pause, RemoteProtocolError
from ioflt.wire.kmip import messages as m
from ioflt.wire.kmip.connection import VERSIONS, ServerConnection
from ioflt.wire.kmip.enumerations import (
    KeyFormatType,
    ObjectType,
    Operation,
    ResultReason,
    ResultStatus,
    RevocationReasonCode,
    State,
)
from ioflt.wire.kmip.structure import Structure
from ioflt.wire.kmip.tags import Tag
from ioflt.wire.kmip.ttlv import Item, Type

HOST: Final = "127.0.0.1"

#: Values by name; clients' own attributes may have several.
_Attributes: TypeAlias = dict[str, list[Item]]


@dataclass
class Key:
    """A key of the server."""

    material: bytes
    state: State = State.PRE_ACTIVE
    attributes: _Attributes = field(default_factory=dict)

    def add(self, attribute: m.Attribute) -> None:
        """One more value; its index is the next one."""
        if attribute.value is None or attribute.index is not None:
            raise Refused(ResultReason.INVALID_FIELD)
        self.attributes.setdefault(attribute.name, []).append(attribute.value)

    def modify(self, attribute: m.Attribute) -> None:
        """Another value at the index, or at the first."""
        values, index = self.attributes.get(attribute.name, []), attribute.index or 0
        if attribute.value is None or not 0 <= index < len(values):
            raise Refused(ResultReason.ITEM_NOT_FOUND)
        values[index] = attribute.value


class Refused(Exception):
    """An item fails with this reason."""

    def __init__(self, reason: ResultReason) -> None:
        super().__init__(reason.name)
        self.reason = reason


@dataclass
class Behaviour:
    """What may be changed while it runs. `edit` gets each answer before it is sent."""

    versions: Sequence[m.Version] = VERSIONS
    max_batch: int = 1024
    too_large: ResultReason = ResultReason.RESPONSE_TOO_LARGE
    hangs: bool = False
    hangs_after: int | None = None  # answers on a connection
    takes_attributes: bool = True
    refuses: frozenset[Operation] = frozenset()  # PERMISSION_DENIED
    cut_after: int | None = None  # requests on a connection
    close_after: int | None = None  # answers on a connection
    drip: float | None = None  # seconds before each byte of an answer
    hold_batches: threading.Event | None = None  # answers to several at once wait for it
    edit: Callable[[m.ResponseMessage], m.ResponseMessage] | None = None


class KmipServer:
    """Serves from `start` until `stop`, or as a context. `seen` has every request, in order."""

    def __init__(self, certificate: tuple[Path, Path], authority: Path) -> None:
        self.keys: dict[str, Key] = {}
        self.destroyed: dict[str, Key] = {}
        self.behaviour = Behaviour()
        self.seen: list[m.RequestMessage] = []
        self.port = 0
        self.connections = self.most_connections = 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.load_cert_chain(*certificate)
        self.context.load_verify_locations(authority)
        self.context.verify_mode = ssl.CERT_REQUIRED
        self._ready = threading.Event()
        self._end = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._thread = threading.Thread(target=trio.run, args=(self._serve,), daemon=True)

    def start(self) -> KmipServer:
        """Listen on a free port of 127.0.0.1."""
        self._thread.start()
        self._ready.wait()
        return self

    def stop(self) -> None:
        """Close all connections and end."""
        if self._token is not None and self._thread.is_alive():
            self._token.run_sync_soon(self._end.set)
            self._thread.join()

    def __enter__(self) -> KmipServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def add(self, count: int = 1) -> list[str]:
        """New active keys."""
        ids = [new_uuid() for _ in range(count)]
        self.keys |= {key_id: Key(random_bytes(32), State.ACTIVE) for key_id in ids}
        return ids

    def asked(self, operation: Operation) -> int:
        """How many items asked for that operation."""
        return sum(item.operation == operation for message in self.seen for item in message.items)

    async def _serve(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host=HOST)
            self.port = listener.socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, self._handle, [listener])
            self._ready.set()
            await self._end.wait()
            nursery.cancel_scope.cancel()

    async def _handle(self, socket: trio.SocketStream) -> None:
        stream = trio.SSLStream(socket, self.context, server_side=True)
        self.connections += 1
        self.most_connections = max(self.connections, self.most_connections)
        try:
            await self._converse(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, RemoteProtocolError):
            pass  # the client's affair
        finally:
            self.connections -= 1
            await trio.aclose_forcefully(stream)

    async def _converse(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        machine = ServerConnection()
        requests = 0
        while True:
            event = machine.next_event()
            if event is Pause.CLOSED:
                return
            if event is Pause.NEED_DATA:
                machine.receive_data(await stream.receive_some(65536))
                continue
            requests += 1
            self.seen.append(event)
            if self.behaviour.cut_after is not None and requests > self.behaviour.cut_after:
                return
            after = self.behaviour.hangs_after
            if self.behaviour.hangs or (after is not None and requests > after):
                await trio.sleep_forever()
            hold = self.behaviour.hold_batches
            if hold is not None and len(event.items) > 1:
                await trio.to_thread.run_sync(hold.wait, abandon_on_cancel=True)
            answer = self._answer(event)
            await self._send(stream, machine.send(answer))
            if requests == self.behaviour.close_after:
                await stream.aclose()
                return

    async def _send(self, stream: trio.SSLStream[trio.SocketStream], data: bytearray) -> None:
        if self.behaviour.drip is None:
            await stream.send_all(data)
            return
        for byte in data:
            await trio.sleep(self.behaviour.drip)
            await stream.send_all(bytes((byte,)))

    def _answer(self, request: m.RequestMessage) -> m.ResponseMessage:
        items: tuple[m.ResponseItem, ...]
        if len(request.items) > self.behaviour.max_batch:
            items = (_failed(self.behaviour.too_large),)
        else:
            items = tuple(map(self._item, request.items))
        header = m.ResponseHeader(version=request.header.version, time=0, count=len(items))
        answer = m.ResponseMessage(header, items)
        return self.behaviour.edit(answer) if self.behaviour.edit is not None else answer

    def _item(self, item: m.RequestItem) -> m.ResponseItem:
        try:
            payload = self._do(item.payload, Operation(item.operation))
        except (Refused, ValueError) as error:
            reason = error.reason if isinstance(error, Refused) else ResultReason.OPERATION_NOT_SUPPORTED
            return msgspec.structs.replace(_failed(reason), operation=item.operation, id=item.id)
        return m.ResponseItem(
            operation=item.operation, id=item.id, status=ResultStatus.SUCCESS, payload=payload
        )

    def _do(self, asked: Item | Structure, operation: Operation) -> Structure:
        if operation in self.behaviour.refuses:
            raise Refused(ResultReason.PERMISSION_DENIED)
        match asked:
            case m.DiscoverVersions():
                if not self.behaviour.versions:
                    raise Refused(ResultReason.OPERATION_NOT_SUPPORTED)
                return m.DiscoverVersions(versions=tuple(self.behaviour.versions))
            case m.Query():
                return m.Queried(operations=tuple(Operation), vendor="ioflt's test server")
            case m.Create():
                key_id = new_uuid()
                self.keys[key_id] = Key(random_bytes(32))
                return m.Created(object_type=asked.object_type, id=key_id)
            case m.Get(id=str(key_id)):
                return _got(key_id, self._key(key_id).material)
            case m.GetAttributes(id=str(key_id)):
                return m.Attributes(id=key_id, attributes=self._attributes(key_id, asked.names))
            case m.AddAttribute(id=str(key_id)) if self.behaviour.takes_attributes:
                self._key(key_id).add(asked.attribute)
                return asked
            case m.ModifyAttribute(id=str(key_id)) if self.behaviour.takes_attributes:
                self._key(key_id).modify(asked.attribute)
                return asked
            case m.Locate():
                return m.Located(ids=tuple(key for key in self.keys if self._fits(key, asked.attributes)))
            case m.Revoke(id=str(key_id)):
                compromised = asked.reason.code == RevocationReasonCode.KEY_COMPROMISE
                self._key(key_id).state = State.COMPROMISED if compromised else State.DEACTIVATED
                return m.Named(id=key_id)
            case m.Named(id=str(key_id)) if operation == Operation.ACTIVATE:
                self._key(key_id).state = State.ACTIVE
                return asked
            case m.Named(id=str(key_id)) if operation == Operation.DESTROY:
                if self._key(key_id).state == State.ACTIVE:
                    raise Refused(ResultReason.PERMISSION_DENIED)
                self.destroyed[key_id] = self.keys.pop(key_id)
                return asked
        raise Refused(ResultReason.OPERATION_NOT_SUPPORTED)

    def _key(self, key_id: str) -> Key:
        if key_id not in self.keys:
            raise Refused(ResultReason.ITEM_NOT_FOUND)
        return self.keys[key_id]

    def _attributes(self, key_id: str, names: Sequence[str]) -> tuple[m.Attribute, ...]:
        key = self._key(key_id)
        state = Item(Tag.ATTRIBUTE_VALUE, Type.ENUMERATION, int(key.state))
        known = {"State": [state]} | key.attributes
        return tuple(
            m.Attribute(name=name, index=index or None, value=value)
            for name in names
            for index, value in enumerate(known.get(name, []))
        )

    def _fits(self, key_id: str, wanted: Sequence[m.Attribute]) -> bool:
        known = self.keys[key_id].attributes
        state = int(self.keys[key_id].state)
        return all(
            one.name == "Object Type"
            or (one.name == "State" and one.value is not None and one.value.value == state)
            or one.value in known.get(one.name, [])
            for one in wanted
        )


def _got(key_id: str, material: bytes) -> m.Got:
    inner = Item(Tag.KEY_MATERIAL, Type.BYTE_STRING, Secret(material))
    value = Item(Tag.KEY_VALUE, Type.STRUCTURE, (inner,))
    block = m.KeyBlock(format=KeyFormatType.RAW, value=value, algorithm=3, length=len(material) * 8)
    return m.Got(object_type=ObjectType.SYMMETRIC_KEY, id=key_id, key=m.SymmetricKey(block=block))


def _failed(reason: ResultReason) -> m.ResponseItem:
    return m.ResponseItem(status=ResultStatus.OPERATION_FAILED, reason=reason, message="refused")
