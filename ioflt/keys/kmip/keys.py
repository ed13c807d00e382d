"""What ioflt asks of a KMIP cluster: keys and their states, and the operator's commands.

Tasks: any number may call. Fetches go through two queues, small calls before large ones. Up to
`MAX_CONNECTIONS` pumps take batches off them, one fewer for large calls, so that a single key never waits
behind thousands. A key that is asked for twice at the same time is fetched once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

import trio

from ioflt.crypto.secret import Secret
from ioflt.errors import (
    IofltError,
    KeyCorrupt,
    KeyNotFound,
    KeyNotUsable,
    KeyUnavailableError,
    PeerError,
    ProviderUnavailable,
)
from ioflt.keys.kmip import kek
from ioflt.keys.kmip.cluster import MAX_CONNECTIONS, Asked, Cluster
from ioflt.keys.provider import KEK_SIZE
from ioflt.types import MAX_KEY_ID
from ioflt.wire.kmip.connection import Answer
from ioflt.wire.kmip.enumerations import (
    CryptographicAlgorithm,
    ObjectType,
    Operation,
    QueryFunction,
    ResultReason,
    ResultStatus,
    RevocationReasonCode,
    State,
)
from ioflt.wire.kmip.messages import (
    AddAttribute,
    Attribute,
    Attributes,
    Create,
    Created,
    Get,
    GetAttributes,
    Got,
    Locate,
    Located,
    ModifyAttribute,
    Named,
    Queried,
    Query,
    ResponseItem,
    RevocationReason,
    Revoke,
    failure_text,
)
from ioflt.wire.kmip.structure import Structure
from ioflt.wire.kmip.ttlv import Type

#: Keys in one request, and the largest call that goes before others.
BATCH: Final = 64

#: Seconds for the attempt to destroy a key that was made and does not become active.
UNDO_S: Final = 5.0

#: Objects that `locate` takes from a server.
MAX_LOCATED: Final = 1000

Found: TypeAlias = "Secret | KeyUnavailableError"

_NOT_FOUND: Final = (
    ResultReason.ITEM_NOT_FOUND,
    ResultReason.OBJECT_NOT_FOUND,
    ResultReason.OBJECT_DESTROYED,
)
_NOT_USABLE: Final = (
    ResultReason.PERMISSION_DENIED,
    ResultReason.ILLEGAL_OPERATION,
    ResultReason.OBJECT_ARCHIVED,
    ResultReason.KEY_VALUE_NOT_PRESENT,
    ResultReason.SENSITIVE,
    ResultReason.NOT_EXTRACTABLE,
    ResultReason.WRONG_KEY_LIFECYCLE_STATE,
)
#: Answers to a batch by a server that may well answer its items one by one.
_NO_BATCHES: Final = (
    ResultReason.RESPONSE_TOO_LARGE,
    ResultReason.INVALID_MESSAGE,
    ResultReason.OPERATION_NOT_SUPPORTED,
    ResultReason.FEATURE_NOT_SUPPORTED,
    ResultReason.INVALID_FIELD,
    ResultReason.GENERAL_FAILURE,
)

#: Answers to an attribute of ours by a server that has none of clients' own.
_NO_ATTRIBUTES: Final = (
    ResultReason.OPERATION_NOT_SUPPORTED,
    ResultReason.FEATURE_NOT_SUPPORTED,
    ResultReason.INVALID_MESSAGE,
    ResultReason.INVALID_FIELD,
)

_log = logging.getLogger(__name__)


class AttributesRefused(Exception):
    """The servers keep no attributes that clients invent; the text is their reason."""


class Closed(ProviderUnavailable):
    """The connections were closed while a call waited for an answer."""


class _Flight:
    """One key that is being fetched, for all who wait for it."""

    __slots__ = ("done", "id", "result", "taken", "waiting")

    def __init__(self, key_id: str) -> None:
        self.id = key_id
        self.done = trio.Event()
        self.result: Found | None = None
        self.taken = False
        self.waiting = 0


class KmipKeys:
    """The keys of a cluster. Made and used in one trio loop, whose `nursery` runs the pumps."""

    def __init__(self, name: str, cluster: Cluster, nursery: trio.Nursery) -> None:
        self._name = name
        self._cluster = cluster
        self._nursery = nursery
        self._flights: dict[str, _Flight] = {}
        self._small: deque[_Flight] = deque()
        self._large: deque[_Flight] = deque()
        self._pumps = self._large_pumps = 0
        self._batch = BATCH

    # Keys

    async def create(self, tags: Iterable[tuple[str, str]]) -> str:
        """A new key, active and tagged as far as the server takes tags. Raises KeyUnavailableError."""
        create = Create(object_type=ObjectType.SYMMETRIC_KEY, template=kek.TEMPLATE)
        made = await self._one(Operation.CREATE, create, idempotent=False)
        if not isinstance(made, Created) or not 0 < len(made.id) <= MAX_KEY_ID or not made.id.isprintable():
            raise KeyCorrupt(f"the key server of {self._name} made a key without a usable id")
        try:
            if await self.state(made.id) == State.PRE_ACTIVE:
                await self._activate(made.id)
        except KeyUnavailableError as error:
            left = await self._undo(made.id)
            raise type(error)(f"{error.message}; the key {made.id}, which it just made, {left}") from error
        await self._tag(made.id, tags)
        return made.id

    async def activate(self, key_id: str) -> None:
        """Have a key that is there active. Raises KeyNotUsable, naming the state or what it is instead of an
        AES-256 key that encrypts and decrypts; KeyUnavailableError.
        """
        told = await self._one(Operation.GET_ATTRIBUTES, GetAttributes(id=key_id, names=kek.JUDGED))
        unfit = kek.unfit(told) if isinstance(told, Attributes) else ""
        if unfit:
            raise KeyNotUsable(f"the key {key_id[:80]} of {self._name} may protect nothing new: {unfit}")
        if self._state(told, key_id) == State.PRE_ACTIVE:
            await self._activate(key_id)

    async def _activate(self, key_id: str) -> None:
        """A server refuses it for an active key: another host was faster, or the answer was lost once."""
        try:
            await self._one(Operation.ACTIVATE, Named(id=key_id))
        except KeyNotUsable:
            if await self.state(key_id) != State.ACTIVE:
                raise

    async def fetch(self, ids: Sequence[str]) -> list[Found]:
        """For each id its key, or why there is none. Every caller has copies of his own."""
        large = len(ids) > BATCH
        flights = [self._fly(key_id, large=large) for key_id in ids]
        for flight in flights:
            flight.waiting += 1
        self._start_pumps()
        found: list[Found] = []
        for flight in flights:
            if flight.result is None:  # else a look at each of thousands costs as much as fetching it
                await flight.done.wait()
            found.append(_share(flight))
        return found

    async def state(self, key_id: str) -> int:
        """The key's `State`. Raises KeyUnavailableError."""
        told = await self._one(Operation.GET_ATTRIBUTES, GetAttributes(id=key_id, names=("State",)))
        return self._state(told, key_id)

    # Attributes of our own

    async def texts(self, key_id: str, name: str) -> list[str]:
        """The texts of that attribute of the key: none if it has none. Raises KeyUnavailableError."""
        told = await self._one(Operation.GET_ATTRIBUTES, GetAttributes(id=key_id, names=(name,)))
        if not isinstance(told, Attributes):
            raise ProviderUnavailable(f"the key server of {self._name} does not tell attributes of {key_id}")
        return [value for value in told.all(name) if isinstance(value, str)]

    async def set_text(self, key_id: str, name: str, text: str, *, new: bool) -> None:
        """Add the attribute, or change it if the key has it already.

        In a message of its own. Raises AttributesRefused where the servers have no such attributes;
        KeyUnavailableError.
        """
        attribute = Attribute.of(name, Type.TEXT_STRING, text)
        asked: Asked = (Operation.MODIFY_ATTRIBUTE, ModifyAttribute(id=key_id, attribute=attribute))
        if new:
            asked = (Operation.ADD_ATTRIBUTE, AddAttribute(id=key_id, attribute=attribute))
        answer = await self._ask([asked])
        item = answer.items[0] or answer.message.items[0]
        if item.status == ResultStatus.SUCCESS:
            return
        if item.reason in _NO_ATTRIBUTES:
            raise AttributesRefused(failure_text(item))
        raise self._error(item, key_id, asked[0])

    # The operator's commands

    async def locate(self, attributes: Iterable[Attribute]) -> list[str]:
        """Ids of keys with all these attributes. Raises KeyUnavailableError."""
        wanted = (Attribute.of("Object Type", Type.ENUMERATION, ObjectType.SYMMETRIC_KEY), *attributes)
        told = await self._one(Operation.LOCATE, Locate(maximum=MAX_LOCATED, attributes=wanted))
        return list(told.ids) if isinstance(told, Located) else []

    async def revoke(self, key_id: str, reason: RevocationReasonCode, occurred: int | None = None) -> None:
        """End the key's use for new data. `occurred`: since when it may be known to others."""
        what = Revoke(id=key_id, reason=RevocationReason(code=reason), occurred=occurred)
        await self._one(Operation.REVOKE, what)

    async def destroy(self, key_id: str) -> None:
        """Destroy the key on the server: what only it encrypts is gone."""
        await self._one(Operation.DESTROY, Named(id=key_id))

    async def query(self) -> Queried:
        """What the server tells about itself."""
        functions = (QueryFunction.QUERY_OPERATIONS, QueryFunction.QUERY_SERVER_INFORMATION)
        told = await self._one(Operation.QUERY, Query(functions=functions))
        return told if isinstance(told, Queried) else Queried()

    # Fetching

    def _fly(self, key_id: str, *, large: bool) -> _Flight:
        flight = self._flights.get(key_id)
        if flight is None:
            flight = self._flights[key_id] = _Flight(key_id)
            (self._large if large else self._small).append(flight)
        elif not large and not flight.taken:
            self._small.append(flight)  # it waits among many, and is now wanted at once
        return flight

    def _start_pumps(self) -> None:
        waiting = len(self._small) + len(self._large)
        while self._pumps < MAX_CONNECTIONS and waiting > 0:
            self._pumps += 1
            waiting -= self._batch
            self._nursery.start_soon(self._pump)

    async def _pump(self) -> None:
        try:
            while True:
                batch, large = self._take(self._small), False
                if not batch and self._large_pumps < MAX_CONNECTIONS - 1:
                    batch, large = self._take(self._large), True
                if not batch:
                    return
                self._large_pumps += large
                try:
                    await self._fetch(batch)
                finally:
                    self._large_pumps -= large
                    self._land(batch)
        finally:
            self._pumps -= 1

    def _take(self, queue: deque[_Flight]) -> list[_Flight]:
        batch: list[_Flight] = []
        while queue and len(batch) < self._batch:
            flight = queue.popleft()
            if not flight.taken:
                flight.taken = True
                batch.append(flight)
        return batch

    async def _fetch(self, batch: list[_Flight]) -> None:
        try:
            answer = await self._ask([(Operation.GET, Get(id=flight.id)) for flight in batch])
        except KeyUnavailableError as error:
            self._ground(error, batch)
            return
        except IofltError as error:
            self._ground(ProviderUnavailable(f"the key provider {self._name}: {error}"), batch)
            return
        if len(batch) > 1 and all(item is not None and _refuses_batches(item) for item in answer.items):
            await self._one_by_one(batch)
            if any(isinstance(flight.result, Secret) for flight in batch):
                _log.info("%s: the server takes no batches; keys are fetched one by one", self._name)
                self._batch = 1
            return
        rest = []
        for flight, item in zip(batch, answer.items, strict=True):
            if item is None or (len(batch) > 1 and item.reason == ResultReason.RESPONSE_TOO_LARGE):
                rest.append(flight)  # the server stopped at one that failed, or had no room for this one
            else:
                flight.result = self._key(flight.id, item)
        await self._one_by_one(rest)

    async def _one_by_one(self, flights: list[_Flight]) -> None:
        for flight in flights:
            await self._fetch([flight])

    def _ground(self, error: KeyUnavailableError, batch: list[_Flight]) -> None:
        """No server answers: fail what waits too, instead of asking them again for each."""
        waiting = [*batch, *self._take_all(self._small), *self._take_all(self._large)]
        for flight in waiting:
            flight.result = flight.result or error
        self._land(waiting)

    def _take_all(self, queue: deque[_Flight]) -> list[_Flight]:
        flights = [flight for flight in queue if not flight.taken]
        queue.clear()
        for flight in flights:
            flight.taken = True
        return flights

    def _land(self, flights: Iterable[_Flight]) -> None:
        for flight in flights:
            if flight.result is None:
                flight.result = Closed(f"the key provider {self._name} was closed")
            self._flights.pop(flight.id, None)
            flight.done.set()

    def _key(self, key_id: str, item: ResponseItem) -> Found:
        if item.status != ResultStatus.SUCCESS:
            return self._error(item, key_id)
        got = item.payload
        if not isinstance(got, Got) or got.id != key_id:
            return self._corrupt(key_id, "the answer is that of another")
        if got.object_type != ObjectType.SYMMETRIC_KEY or got.key is None:
            return self._corrupt(key_id, "it is no symmetric key")
        block = got.key.block
        if block.wrapping is not None or block.value is None or not isinstance(block.value.value, tuple):
            return self._corrupt(key_id, "it comes wrapped, or without its value")
        material = kek.material(block.format, block.value.value)
        if material is None:
            return self._corrupt(key_id, "its form is not known")
        if len(material) != KEK_SIZE or block.algorithm not in (None, CryptographicAlgorithm.AES):
            return self._corrupt(key_id, "it is no AES-256 key")
        return material

    # Asking

    async def _one(self, operation: Operation, payload: Structure, *, idempotent: bool = True) -> Structure:
        answer = await self._ask([(operation, payload)], idempotent=idempotent)
        (item,) = answer.items
        if item is None or item.status != ResultStatus.SUCCESS or not isinstance(item.payload, Structure):
            key_id = getattr(payload, "id", None) or ""
            raise self._error(item or answer.message.items[0], key_id, operation)
        return item.payload

    async def _ask(self, asked: Sequence[Asked], *, idempotent: bool = True) -> Answer:
        return await self._cluster.exchange(asked, idempotent=idempotent)

    def _state(self, told: Structure, key_id: str) -> int:
        state = told.find("State") if isinstance(told, Attributes) else None
        if not isinstance(state, int):
            raise ProviderUnavailable(
                f"the key server of {self._name} does not tell the state of {key_id[:80]}"
            )
        return state

    async def _undo(self, key_id: str) -> str:
        """Destroy a key that nobody uses. Returns what became of it."""
        why = f"no answer within {UNDO_S:g} seconds"
        with trio.move_on_after(UNDO_S):
            try:
                with suppress(KeyNotUsable, ProviderUnavailable):  # it is active after all
                    await self.destroy(key_id)
                    return "was destroyed again"
                await self.revoke(key_id, RevocationReasonCode.CESSATION_OF_OPERATION)
                await self.destroy(key_id)
            except (KeyUnavailableError, PeerError) as error:
                why = error.message
            else:
                return "was destroyed again"
        return f"is left there ({why})"

    async def _tag(self, key_id: str, tags: Iterable[tuple[str, str]]) -> None:
        """Say whose key it is. In a message of its own, as some servers refuse the whole message."""
        asked: list[Asked] = [
            (
                Operation.ADD_ATTRIBUTE,
                AddAttribute(id=key_id, attribute=Attribute.of(name, Type.TEXT_STRING, text)),
            )
            for name, text in tags
        ]
        try:
            answer = await self._ask(asked)
        except (KeyUnavailableError, PeerError) as error:
            _log.info("%s: the key %s has no tags: %s", self._name, key_id, error)
            return
        refused = [item for item in answer.items if item is None or item.status != ResultStatus.SUCCESS]
        if refused:
            why = failure_text(refused[0]) if refused[0] is not None else "the server stopped"
            _log.info("%s: the key %s lacks %d tags: %s", self._name, key_id, len(refused), why)

    def _error(
        self, item: ResponseItem, key_id: str, operation: Operation = Operation.GET
    ) -> KeyUnavailableError:
        text = failure_text(item)
        what = f"the key {key_id[:80]} of {self._name}" if key_id else f"the key server of {self._name}"
        if item.reason in _NOT_FOUND:
            return KeyNotFound(f"{what} is not there ({text})")
        if item.reason in _NOT_USABLE:
            return KeyNotUsable(f"{what} may not be used ({text})")
        done = "be fetched" if operation == Operation.GET else f"do {operation.name.lower()}"
        return ProviderUnavailable(f"{what} could not {done}: {text}")

    def _corrupt(self, key_id: str, why: str) -> KeyCorrupt:
        return KeyCorrupt(f"what the key server of {self._name} gives as {key_id[:80]} cannot be used: {why}")


def _refuses_batches(item: ResponseItem) -> bool:
    return item.status != ResultStatus.SUCCESS and item.reason in _NO_BATCHES


def _share(flight: _Flight) -> Found:
    """The flight's result; the last who waits gets the key itself, the others copies."""
    flight.waiting -= 1
    result = flight.result
    if isinstance(result, Secret) and flight.waiting:
        return Secret(result.view())
    if result is None:
        return Closed("the fetch was given up")
    return result
