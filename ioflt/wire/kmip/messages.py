"""Messages as frozen objects: `Item` ↔ object (`structure`), the fields in the order of the specification.

Typed are the headers, the batch items, and the payloads of what ioflt uses. Any other payload, and every one
of KMIP 2, stays an `Item`. What a typed object has no field for is kept in `more`, and written last; fields
in another order than the specification's are taken, and written as they came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec

from ioflt.wire.kmip.enumerations import BatchErrorContinuationOption, Operation, name_of
from ioflt.wire.kmip.structure import Is, Structure
from ioflt.wire.kmip.tags import Tag
from ioflt.wire.kmip.ttlv import Item, ProtocolError, Type, Value, tag_name

#: Items of a batch that are accepted in a message.
MAX_BATCH: Final = 1024


# Parts of messages

_Enum: TypeAlias = int
_Version: TypeAlias = tuple[int, int]
_Id: TypeAlias = Annotated[str, Is(Tag.UNIQUE_IDENTIFIER, Type.TEXT_STRING)]
# Without it the last one of the batch is meant.
_OptionalId: TypeAlias = Annotated[str | None, Is(Tag.UNIQUE_IDENTIFIER, Type.TEXT_STRING)]


class Version(Structure, frozen=True, kw_only=True):
    """A protocol version."""

    major: Annotated[int, Is(Tag.PROTOCOL_VERSION_MAJOR, Type.INTEGER)]
    minor: Annotated[int, Is(Tag.PROTOCOL_VERSION_MINOR, Type.INTEGER)]

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def key(self) -> _Version:
        """For comparison."""
        return self.major, self.minor


class Attribute(Structure, frozen=True, kw_only=True):
    """A named attribute. `value` has the tag ATTRIBUTE_VALUE."""

    name: Annotated[str, Is(Tag.ATTRIBUTE_NAME, Type.TEXT_STRING)]
    index: Annotated[int | None, Is(Tag.ATTRIBUTE_INDEX, Type.INTEGER)] = None
    value: Annotated[Item | None, Is(Tag.ATTRIBUTE_VALUE, None)] = None

    @classmethod
    def of(cls, name: str, kind: Type, value: Value) -> Attribute:
        """An attribute with a value of that type."""
        return cls(name=name, value=Item(Tag.ATTRIBUTE_VALUE, kind, value))


class TemplateAttribute(Structure, frozen=True, kw_only=True):
    """Attributes of an object to be made."""

    names: Annotated[tuple[Item, ...], Is(Tag.NAME, None)] = ()
    attributes: Annotated[tuple[Attribute, ...], Is(Tag.ATTRIBUTE)] = ()


class KeyInformation(Structure, frozen=True, kw_only=True):
    """Which key wraps, and how."""

    id: _Id
    parameters: Annotated[Item | None, Is(Tag.CRYPTOGRAPHIC_PARAMETERS, None)] = None


class KeyWrappingSpecification(Structure, frozen=True, kw_only=True):
    """How a key is to be wrapped."""

    method: Annotated[_Enum, Is(Tag.WRAPPING_METHOD, Type.ENUMERATION)]
    encryption_key: Annotated[KeyInformation | None, Is(Tag.ENCRYPTION_KEY_INFORMATION)] = None
    mac_key: Annotated[KeyInformation | None, Is(Tag.MAC_SIGNATURE_KEY_INFORMATION)] = None
    attributes: Annotated[tuple[str, ...], Is(Tag.ATTRIBUTE_NAME, Type.TEXT_STRING)] = ()
    encoding: Annotated[_Enum | None, Is(Tag.ENCODING_OPTION, Type.ENUMERATION)] = None


class KeyWrappingData(Structure, frozen=True, kw_only=True):
    """How a key is wrapped."""

    method: Annotated[_Enum, Is(Tag.WRAPPING_METHOD, Type.ENUMERATION)]
    encryption_key: Annotated[KeyInformation | None, Is(Tag.ENCRYPTION_KEY_INFORMATION)] = None
    mac_key: Annotated[KeyInformation | None, Is(Tag.MAC_SIGNATURE_KEY_INFORMATION)] = None
    mac: Annotated[bytes | None, Is(Tag.MAC_SIGNATURE, Type.BYTE_STRING)] = None
    nonce: Annotated[bytes | None, Is(Tag.IV_COUNTER_NONCE, Type.BYTE_STRING)] = None
    encoding: Annotated[_Enum | None, Is(Tag.ENCODING_OPTION, Type.ENUMERATION)] = None


class KeyBlock(Structure, frozen=True, kw_only=True):
    """A key. `value` is a structure with the material, or the wrapped bytes."""

    format: Annotated[_Enum, Is(Tag.KEY_FORMAT_TYPE, Type.ENUMERATION)]
    compression: Annotated[_Enum | None, Is(Tag.KEY_COMPRESSION_TYPE, Type.ENUMERATION)] = None
    value: Annotated[Item | None, Is(Tag.KEY_VALUE, None)] = None
    algorithm: Annotated[_Enum | None, Is(Tag.CRYPTOGRAPHIC_ALGORITHM, Type.ENUMERATION)] = None
    length: Annotated[int | None, Is(Tag.CRYPTOGRAPHIC_LENGTH, Type.INTEGER)] = None
    wrapping: Annotated[KeyWrappingData | None, Is(Tag.KEY_WRAPPING_DATA)] = None


class SymmetricKey(Structure, frozen=True, kw_only=True):
    """A managed symmetric key."""

    block: Annotated[KeyBlock, Is(Tag.KEY_BLOCK)]


class RevocationReason(Structure, frozen=True, kw_only=True):
    """Why a key is revoked."""

    code: Annotated[_Enum, Is(Tag.REVOCATION_REASON_CODE, Type.ENUMERATION)]
    message: Annotated[str | None, Is(Tag.REVOCATION_MESSAGE, Type.TEXT_STRING)] = None


# Headers and batch items


class RequestHeader(Structure, frozen=True, kw_only=True):
    """What a client says before its batch."""

    version: Annotated[Version, Is(Tag.PROTOCOL_VERSION)]
    max_response_size: Annotated[int | None, Is(Tag.MAXIMUM_RESPONSE_SIZE, Type.INTEGER)] = None
    client_correlation: Annotated[str | None, Is(Tag.CLIENT_CORRELATION_VALUE, Type.TEXT_STRING)] = None
    server_correlation: Annotated[str | None, Is(Tag.SERVER_CORRELATION_VALUE, Type.TEXT_STRING)] = None
    # From 2.0 on an enumeration.
    asynchronous: Annotated[Item | None, Is(Tag.ASYNCHRONOUS_INDICATOR, None)] = None
    attestation_capable: Annotated[bool | None, Is(Tag.ATTESTATION_CAPABLE_INDICATOR, Type.BOOLEAN)] = None
    attestation_types: Annotated[tuple[_Enum, ...], Is(Tag.ATTESTATION_TYPE, Type.ENUMERATION)] = ()
    authentication: Annotated[Item | None, Is(Tag.AUTHENTICATION, None)] = None
    on_error: Annotated[_Enum | None, Is(Tag.BATCH_ERROR_CONTINUATION_OPTION, Type.ENUMERATION)] = None
    in_order: Annotated[bool | None, Is(Tag.BATCH_ORDER_OPTION, Type.BOOLEAN)] = None
    time: Annotated[int | None, Is(Tag.TIME_STAMP, Type.DATE_TIME)] = None
    count: Annotated[int, Is(Tag.BATCH_COUNT, Type.INTEGER)]


class ResponseHeader(Structure, frozen=True, kw_only=True):
    """What a server says before its answers."""

    version: Annotated[Version, Is(Tag.PROTOCOL_VERSION)]
    time: Annotated[int, Is(Tag.TIME_STAMP, Type.DATE_TIME)]
    nonce: Annotated[Item | None, Is(Tag.NONCE, None)] = None
    hashed_password: Annotated[Item | None, Is(Tag.SERVER_HASHED_PASSWORD, None)] = None
    attestation_types: Annotated[tuple[_Enum, ...], Is(Tag.ATTESTATION_TYPE, Type.ENUMERATION)] = ()
    client_correlation: Annotated[str | None, Is(Tag.CLIENT_CORRELATION_VALUE, Type.TEXT_STRING)] = None
    server_correlation: Annotated[str | None, Is(Tag.SERVER_CORRELATION_VALUE, Type.TEXT_STRING)] = None
    count: Annotated[int, Is(Tag.BATCH_COUNT, Type.INTEGER)]


class RequestItem(Structure, frozen=True, kw_only=True):
    """One operation that is asked for. `payload` is an Item or a typed payload."""

    operation: Annotated[_Enum, Is(Tag.OPERATION, Type.ENUMERATION)]
    ephemeral: Annotated[bool | None, Is(Tag.EPHEMERAL, Type.BOOLEAN)] = None
    id: Annotated[bytes | None, Is(Tag.UNIQUE_BATCH_ITEM_ID, Type.BYTE_STRING)] = None
    payload: Annotated[Item | Structure, Is(Tag.REQUEST_PAYLOAD, None)]
    extension: Annotated[Item | None, Is(Tag.MESSAGE_EXTENSION, None)] = None


class ResponseItem(Structure, frozen=True, kw_only=True):
    """One answer. `operation` is missing when the request could not be read."""

    operation: Annotated[_Enum | None, Is(Tag.OPERATION, Type.ENUMERATION)] = None
    id: Annotated[bytes | None, Is(Tag.UNIQUE_BATCH_ITEM_ID, Type.BYTE_STRING)] = None
    status: Annotated[_Enum, Is(Tag.RESULT_STATUS, Type.ENUMERATION)]
    reason: Annotated[_Enum | None, Is(Tag.RESULT_REASON, Type.ENUMERATION)] = None
    message: Annotated[str | None, Is(Tag.RESULT_MESSAGE, Type.TEXT_STRING)] = None
    correlation: Annotated[bytes | None, Is(Tag.ASYNCHRONOUS_CORRELATION_VALUE, Type.BYTE_STRING)] = None
    payload: Annotated[Item | Structure | None, Is(Tag.RESPONSE_PAYLOAD, None)] = None
    extension: Annotated[Item | None, Is(Tag.MESSAGE_EXTENSION, None)] = None


# Payloads


class DiscoverVersions(Structure, frozen=True, kw_only=True):
    """Versions that a client offers, and that a server has, the preferred one first."""

    versions: Annotated[tuple[Version, ...], Is(Tag.PROTOCOL_VERSION)] = ()


class Query(Structure, frozen=True, kw_only=True):
    """What a server is asked about itself."""

    functions: Annotated[tuple[_Enum, ...], Is(Tag.QUERY_FUNCTION, Type.ENUMERATION)] = ()


class Queried(Structure, frozen=True, kw_only=True):
    """What a server tells about itself."""

    operations: Annotated[tuple[_Enum, ...], Is(Tag.OPERATION, Type.ENUMERATION)] = ()
    object_types: Annotated[tuple[_Enum, ...], Is(Tag.OBJECT_TYPE, Type.ENUMERATION)] = ()
    vendor: Annotated[str | None, Is(Tag.VENDOR_IDENTIFICATION, Type.TEXT_STRING)] = None
    information: Annotated[Item | None, Is(Tag.SERVER_INFORMATION, None)] = None
    namespaces: Annotated[tuple[str, ...], Is(Tag.APPLICATION_NAMESPACE, Type.TEXT_STRING)] = ()


class Create(Structure, frozen=True, kw_only=True):
    """Make a key."""

    object_type: Annotated[_Enum, Is(Tag.OBJECT_TYPE, Type.ENUMERATION)]
    template: Annotated[TemplateAttribute, Is(Tag.TEMPLATE_ATTRIBUTE)]


class Created(Structure, frozen=True, kw_only=True):
    """The key that was made."""

    object_type: Annotated[_Enum, Is(Tag.OBJECT_TYPE, Type.ENUMERATION)]
    id: _Id
    template: Annotated[TemplateAttribute | None, Is(Tag.TEMPLATE_ATTRIBUTE)] = None


class Named(Structure, frozen=True, kw_only=True):
    """Activate and Destroy: which object. The answer has the same form."""

    id: _OptionalId = None


class Get(Structure, frozen=True, kw_only=True):
    """Hand out an object."""

    id: _OptionalId = None
    format: Annotated[_Enum | None, Is(Tag.KEY_FORMAT_TYPE, Type.ENUMERATION)] = None
    wrap: Annotated[_Enum | None, Is(Tag.KEY_WRAP_TYPE, Type.ENUMERATION)] = None
    compression: Annotated[_Enum | None, Is(Tag.KEY_COMPRESSION_TYPE, Type.ENUMERATION)] = None
    wrapping: Annotated[KeyWrappingSpecification | None, Is(Tag.KEY_WRAPPING_SPECIFICATION)] = None


class Got(Structure, frozen=True, kw_only=True):
    """An object: a symmetric key in `key`, any other in `more`."""

    object_type: Annotated[_Enum, Is(Tag.OBJECT_TYPE, Type.ENUMERATION)]
    id: _Id
    key: Annotated[SymmetricKey | None, Is(Tag.SYMMETRIC_KEY)] = None


class GetAttributes(Structure, frozen=True, kw_only=True):
    """Tell attributes; all of them when none is named."""

    id: _OptionalId = None
    names: Annotated[tuple[str, ...], Is(Tag.ATTRIBUTE_NAME, Type.TEXT_STRING)] = ()


class Attributes(Structure, frozen=True, kw_only=True):
    """Attributes of an object. Those that it has not are missing."""

    id: _Id
    attributes: Annotated[tuple[Attribute, ...], Is(Tag.ATTRIBUTE)] = ()

    def find(self, name: str) -> Value | None:
        """The value of the first attribute of that name."""
        return next(self.all(name), None)

    def all(self, name: str) -> Iterator[Value]:
        """The values of all attributes of that name."""
        for attribute in self.attributes:
            if attribute.name == name and attribute.value is not None:
                yield attribute.value.value


class AddAttribute(Structure, frozen=True, kw_only=True):
    """Give an object an attribute. The answer has the same form."""

    id: _OptionalId = None
    attribute: Annotated[Attribute, Is(Tag.ATTRIBUTE)]


class ModifyAttribute(Structure, frozen=True, kw_only=True):
    """Give an attribute of an object, the one of that index or the first, another value."""

    id: _OptionalId = None
    attribute: Annotated[Attribute, Is(Tag.ATTRIBUTE)]


class Locate(Structure, frozen=True, kw_only=True):
    """Find objects with all these attributes."""

    maximum: Annotated[int | None, Is(Tag.MAXIMUM_ITEMS, Type.INTEGER)] = None
    offset: Annotated[int | None, Is(Tag.OFFSET_ITEMS, Type.INTEGER)] = None
    storage: Annotated[int | None, Is(Tag.STORAGE_STATUS_MASK, Type.INTEGER)] = None
    group_member: Annotated[_Enum | None, Is(Tag.OBJECT_GROUP_MEMBER, Type.ENUMERATION)] = None
    attributes: Annotated[tuple[Attribute, ...], Is(Tag.ATTRIBUTE)] = ()


class Located(Structure, frozen=True, kw_only=True):
    """Objects that were found."""

    count: Annotated[int | None, Is(Tag.LOCATED_ITEMS, Type.INTEGER)] = None
    ids: Annotated[tuple[str, ...], Is(Tag.UNIQUE_IDENTIFIER, Type.TEXT_STRING)] = ()


class Revoke(Structure, frozen=True, kw_only=True):
    """End the use of a key."""

    id: _OptionalId = None
    reason: Annotated[RevocationReason, Is(Tag.REVOCATION_REASON)]
    occurred: Annotated[int | None, Is(Tag.COMPROMISE_OCCURRENCE_DATE, Type.DATE_TIME)] = None


class ReKey(Structure, frozen=True, kw_only=True):
    """Make a new key in the place of one."""

    id: _OptionalId = None
    offset: Annotated[int | None, Is(Tag.OFFSET, Type.INTERVAL)] = None
    template: Annotated[TemplateAttribute | None, Is(Tag.TEMPLATE_ATTRIBUTE)] = None


class ReKeyed(Structure, frozen=True, kw_only=True):
    """The new key."""

    id: _Id
    template: Annotated[TemplateAttribute | None, Is(Tag.TEMPLATE_ATTRIBUTE)] = None


#: The typed payloads of an operation: request, response.
PAYLOADS: Final[Mapping[int, tuple[type[Structure], type[Structure]]]] = {
    Operation.CREATE: (Create, Created),
    Operation.RE_KEY: (ReKey, ReKeyed),
    Operation.LOCATE: (Locate, Located),
    Operation.GET: (Get, Got),
    Operation.GET_ATTRIBUTES: (GetAttributes, Attributes),
    Operation.ADD_ATTRIBUTE: (AddAttribute, AddAttribute),
    Operation.MODIFY_ATTRIBUTE: (ModifyAttribute, ModifyAttribute),
    Operation.ACTIVATE: (Named, Named),
    Operation.REVOKE: (Revoke, Named),
    Operation.DESTROY: (Named, Named),
    Operation.QUERY: (Query, Queried),
    Operation.DISCOVER_VERSIONS: (DiscoverVersions, DiscoverVersions),
}


# Messages


class RequestMessage(msgspec.Struct, frozen=True):
    """A batch of operations."""

    header: RequestHeader
    items: tuple[RequestItem, ...]

    @classmethod
    def read(cls, item: Item) -> RequestMessage:
        """Raises ProtocolError."""
        head, rest = _parts(item, Tag.REQUEST_MESSAGE, Tag.REQUEST_HEADER)
        header = RequestHeader.read(head)
        items = tuple(map(RequestItem.read, rest))
        _check_count(header.count, items)
        if header.version.major == 1:
            items = tuple(map(_typed_or_not, items))
        return cls(header, items)

    def write(self) -> Item:
        """The item of the message."""
        return _message(Tag.REQUEST_MESSAGE, self.header.write(Tag.REQUEST_HEADER), self.items)


class ResponseMessage(msgspec.Struct, frozen=True):
    """The answers to a batch."""

    header: ResponseHeader
    items: tuple[ResponseItem, ...]

    @classmethod
    def read(cls, item: Item) -> ResponseMessage:
        """Raises ProtocolError."""
        head, rest = _parts(item, Tag.RESPONSE_MESSAGE, Tag.RESPONSE_HEADER)
        header = ResponseHeader.read(head)
        items = tuple(map(ResponseItem.read, rest))
        _check_count(header.count, items)
        if header.version.major == 1:
            items = tuple(_typed(one, one.operation, 1) for one in items)
        return cls(header, items)

    def write(self) -> Item:
        """The item of the message."""
        return _message(Tag.RESPONSE_MESSAGE, self.header.write(Tag.RESPONSE_HEADER), self.items)


Message: TypeAlias = RequestMessage | ResponseMessage


def read(item: Item) -> Message:
    """The message that an item is. Raises ProtocolError."""
    return RequestMessage.read(item) if item.tag == Tag.REQUEST_MESSAGE else ResponseMessage.read(item)


def request(
    version: Version, payloads: Sequence[tuple[Operation, Structure]], max_response_size: int | None = None
) -> RequestMessage:
    """A batch of typed payloads. Of several each has an id, and none ends with another's failure."""
    several = len(payloads) > 1
    on_error = BatchErrorContinuationOption.CONTINUE if several else None
    header = RequestHeader(
        version=version, max_response_size=max_response_size, on_error=on_error, count=len(payloads)
    )
    return RequestMessage(
        header,
        tuple(
            RequestItem(operation=operation, id=b"%04x" % index if several else None, payload=payload)
            for index, (operation, payload) in enumerate(payloads)
        ),
    )


def failure_text(item: ResponseItem) -> str:
    """Why an item failed, as the server says it."""
    name = None if item.reason is None else name_of("ResultReason", item.reason) or f"0x{item.reason:08x}"
    return ": ".join(part for part in (name, (item.message or "")[:400]) if part) or "no reason is given"


_Batch = TypeVar("_Batch", RequestItem, ResponseItem)


def _typed(item: _Batch, operation: int | None, side: int) -> _Batch:
    kinds = PAYLOADS.get(operation or 0)
    if kinds is None or not isinstance(item.payload, Item):
        return item
    return msgspec.structs.replace(item, payload=kinds[side].read(item.payload))


def _typed_or_not(item: RequestItem) -> RequestItem:
    """What a payload lacks is for the server to refuse in its answer; it does not break the protocol."""
    try:
        return _typed(item, item.operation, 0)
    except ProtocolError:
        return item


def _parts(item: Item, tag: Tag, header: Tag) -> tuple[Item, tuple[Item, ...]]:
    if item.tag != tag or not isinstance(item.value, tuple):
        raise ProtocolError("another message", f"{item.name}, not {tag_name(tag)}")
    if not item.value or item.value[0].tag != header:
        raise ProtocolError("missing field", tag_name(header))
    for child in item.value[1:]:
        if child.tag != Tag.BATCH_ITEM:
            raise ProtocolError("unknown field", child.name)
    return item.value[0], item.value[1:]


def _check_count(count: int, items: Sequence[object]) -> None:
    if count != len(items):
        raise ProtocolError("wrong batch count", f"{count}, there are {len(items)}")
    if count > MAX_BATCH:
        raise ProtocolError("too many items", str(count))


def _message(tag: Tag, header: Item, items: Sequence[Structure]) -> Item:
    return Item(tag, Type.STRUCTURE, (header, *(one.write(Tag.BATCH_ITEM) for one in items)))
