"""Typed structures: annotations say where fields lie; by them objects are read from items and written."""

from __future__ import annotations

from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec

from ioflt.wire.frame import LocalProtocolError
from ioflt.wire.kmip.tags import Tag
from ioflt.wire.kmip.ttlv import Item, ProtocolError, Type, Value, tag_name


class Is(msgspec.Struct, frozen=True):
    """How a field lies in TTLV: its tag, and its type (None: any, kept as an Item)."""

    tag: Tag
    type: Type | None = Type.STRUCTURE


_Self = TypeVar("_Self", bound="Structure")


class Structure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A typed structure. Subclasses say with `Annotated[…, Is(…)]` where their fields lie.

    A field of type T must be there once, `T | None` at most once, `tuple[T, ...]` any number of times.
    `gc=False` as for `Item`.
    """

    more: tuple[Item, ...] = ()
    #: The tags as they came, where that was in another order.
    layout: tuple[int, ...] = ()

    @classmethod
    def read(cls: type[_Self], item: Item) -> _Self:
        """The object of a structure. Raises ProtocolError."""
        if not isinstance(item.value, tuple):
            raise ProtocolError("wrong type", item.name)
        plan = _plan_of(cls)
        values: dict[str, Any] = {}
        more: list[Item] = []
        last, ordered = 0, True
        for child in item.value:
            field = plan.by_tag.get(child.tag)
            place = len(plan.fields) if field is None else field.place
            ordered, last = ordered and place >= last, place
            if field is None:
                more.append(child)
                continue
            value = field.take(child)
            if field.many:
                values.setdefault(field.name, []).append(value)
            elif field.name in values:
                raise ProtocolError("twice the same field", child.name)
            else:
                values[field.name] = value
        for field in plan.fields:
            if field.many:
                values[field.name] = tuple(values.get(field.name, ()))
            elif field.needed and field.name not in values:
                raise ProtocolError("missing field", tag_name(field.tag))
        layout = () if ordered else tuple(child.tag for child in item.value)
        return cls(more=tuple(more), layout=layout, **values)

    def write(self, tag: int) -> Item:
        """The structure of this object under a tag."""
        children: list[Item] = []
        for field in _plan_of(type(self)).fields:
            value = getattr(self, field.name)
            if field.many:
                children.extend(map(field.give, value))
            elif value is not None:
                children.append(field.give(value))
        children += self.more
        return Item(tag, Type.STRUCTURE, tuple(self._laid_out(children) if self.layout else children))

    def _laid_out(self, children: list[Item]) -> list[Item]:
        """The children in the order of `layout`; those of the same tag stay in theirs."""
        places: dict[int, list[int]] = {}
        for place, tag in enumerate(self.layout):
            places.setdefault(tag, []).append(place)
        end = len(self.layout)
        keys = [(places[child.tag].pop(0) if places.get(child.tag) else end) for child in children]
        return [child for _, child in sorted(zip(keys, children, strict=True), key=lambda pair: pair[0])]


class _Field(msgspec.Struct, frozen=True):
    name: str
    tag: int
    kind: Type | None
    structure: type[Structure] | None
    many: bool
    needed: bool
    place: int

    def take(self, item: Item) -> object:
        if self.kind is None:
            return item
        if item.type != self.kind:
            raise ProtocolError("wrong type", item.name)
        return item.value if self.structure is None else self.structure.read(item)

    def give(self, value: object) -> Item:
        if self.kind is None and isinstance(value, Item):
            return value
        if isinstance(value, Structure):
            return value.write(self.tag)
        if self.kind is None or self.structure is not None:
            raise LocalProtocolError(f"no item for {self.name}")
        return Item(self.tag, self.kind, cast("Value", value))  # `ttlv.write` checks


class _Plan(msgspec.Struct, frozen=True):
    fields: tuple[_Field, ...]
    by_tag: dict[int, _Field]


_plans: dict[type[Structure], _Plan] = {}


def _plan_of(cls: type[Structure]) -> _Plan:
    plan = _plans.get(cls)
    return plan if plan is not None else _make_plan(cls)


def _make_plan(cls: type[Structure]) -> _Plan:
    hints = get_type_hints(cls, include_extras=True)
    names = [name for name in cls.__struct_fields__ if name not in Structure.__struct_fields__]
    fields = tuple(_field(name, hints[name], place) for place, name in enumerate(names))
    plan = _plans[cls] = _Plan(fields, {field.tag: field for field in fields})
    return plan


def _field(name: str, hint: object, place: int) -> _Field:
    inner, where = get_args(hint)
    parts = get_args(inner)
    many = get_origin(inner) is tuple
    kind = parts[0] if parts else inner
    structure = kind if isinstance(kind, type) and issubclass(kind, Structure) else None
    return _Field(name, where.tag, where.type, structure, many, not many and type(None) not in parts, place)
