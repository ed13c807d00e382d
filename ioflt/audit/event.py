"""One event: who did what to which object, what it was before and is now. SPEC.md has its two forms.

Structured (`to_json`, `from_json`) it goes into the log; as `text` it has the shape of vSphere's events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from ioflt.errors import MalformedError, UsageError
from ioflt.types import MAX_KEY_ID

#: Longest name of an operation, in characters.
MAX_OPERATION: Final = 64
#: Longest name of a principal, object or privilege, longest reason, and longest id of an object.
MAX_NAME: Final = 1024
MAX_ID: Final = MAX_KEY_ID + 256
#: Longest path of a change, and longest text in a value.
MAX_TEXT: Final = 4096
#: Most changes of an event, and most things in the list or structure of one value.
MAX_CHANGES: Final = 64
MAX_ITEMS: Final = 256
#: Longest event in its structured form, in bytes.
MAX_EVENT: Final = 64 << 10

_MAX_DEPTH: Final = 4
_MAX_INT: Final = 2**63 - 1

_encoder: Final = msgspec.json.Encoder()

Outcome = Literal["done", "denied", "failed", "refused"]
ChangeKind = Literal["modified", "added", "deleted"]

#: What a change is from or to: None is "unset", a mapping a structure, a sequence an array.
Value: TypeAlias = "bool | int | str | Sequence[Value] | Mapping[str, Value] | None"

_Name = Annotated[str, Meta(max_length=MAX_NAME)]
_Word = Annotated[str, Meta(min_length=1, max_length=MAX_OPERATION)]
_Id = Annotated[int, Meta(ge=0, lt=2**32)]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Fields that have their default are left out of the JSON."""


class Actor(_Struct, frozen=True):
    """Who did it: the principal, and the process by which the kernel vouches for it.

    `origin`: "local", or the address of who came by a network. `as_principal`: the other that he acted for.
    """

    who: _Name
    uid: _Id
    pid: _Id
    origin: _Name = "local"
    as_principal: _Name | None = None


class Thing(_Struct, frozen=True):
    """What an event is about: its kind ("vm", "key", …), its lasting id, and what people call it."""

    kind: _Word
    id: Annotated[str, Meta(max_length=MAX_ID)]
    shown: _Name


class Change(_Struct, frozen=True):
    """One value. `before` is unset for what was added, `after` for what was deleted."""

    kind: ChangeKind
    path: Annotated[str, Meta(max_length=MAX_TEXT)]
    before: Any = None
    after: Any = None


class Event(_Struct, frozen=True):
    """One event. Nothing secret may be in it: of a key its name, of a bundle or content a digest at most.

    `datastore`: where the object is. `reason`: why it was not done, or what else there is to say.
    `reported`: a command or mount told of it; keyd vouches for `by`, not for the rest.
    `served_uid`: the user that a mount did it for, as the kernel told the mount.
    """

    time: Annotated[datetime, Meta(tz=True)]
    by: Actor
    operation: _Word
    object: Thing | None = None
    datastore: Thing | None = None
    changes: Annotated[tuple[Change, ...], Meta(max_length=MAX_CHANGES)] = ()
    privilege: _Name | None = None
    outcome: Outcome = "done"
    reason: _Name | None = None
    reported: bool = False
    served_uid: _Id | None = None


_decoder: Final = msgspec.json.Decoder(Event)


def modified(path: str, before: Value, after: Value) -> Change:
    """A value that is another now."""
    return Change("modified", path, before, after)


def added(path: str, after: Value) -> Change:
    """A value where there was none."""
    return Change("added", path, None, after)


def deleted(path: str, before: Value) -> Change:
    """A value that is gone."""
    return Change("deleted", path, before, None)


def to_json(event: Event) -> bytes:
    """The one structured form: no blank, no newline. Raises UsageError for an event that breaks a limit."""
    try:
        made = _encoder.encode(event)
    except (TypeError, OverflowError, UnicodeEncodeError) as error:
        raise UsageError(f"an event that has no structured form: {error}") from None
    try:
        from_json(made)
    except MalformedError as error:
        raise UsageError(f"an event beyond its limits: {error.message}") from None
    return made


def from_json(data: bytes | memoryview) -> Event:
    """The event of a structured form, `to_json` of which is these bytes again. Raises MalformedError."""
    if len(data) > MAX_EVENT:
        raise MalformedError("event too long", f"{len(data)} bytes")
    try:
        event = _decoder.decode(data)
        if event.time.utcoffset():
            raise ValueError("another time zone")
        for change in event.changes:
            _check_change(change)
        again = _encoder.encode(event)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        raise MalformedError("bad event") from None
    if again != data:
        raise MalformedError("bad event", "not in its one form")
    return event


def fitted(event: Event) -> Event:
    """The event within its limits: too long texts are cut visibly, bytes that are no text escaped."""
    changes = tuple(
        Change(change.kind, _cut(change.path), _fit(change.before), _fit(change.after))
        for change in event.changes
    )
    by = event.by
    made = msgspec.structs.replace(
        event,
        by=Actor(_name(by.who), by.uid, by.pid, _name(by.origin), _name_or_none(by.as_principal)),
        operation=_cut(event.operation, MAX_OPERATION),
        object=_fit_thing(event.object),
        datastore=_fit_thing(event.datastore),
        privilege=_name_or_none(event.privilege),
        reason=_name_or_none(event.reason),
        changes=changes if len(changes) <= MAX_CHANGES else _first(changes, MAX_CHANGES - 1),
    )
    kept = len(made.changes)
    while kept and len(_encoder.encode(made)) > MAX_EVENT:
        kept //= 2
        made = msgspec.structs.replace(made, changes=_first(changes, kept))
    return made


def sentence(event: Event, host: str) -> str:
    """What happened in one line."""
    what = "" if event.object is None else f" {_plain(event.object.shown)}"
    place = "" if event.datastore is None else f" in {_plain(event.datastore.shown)}"
    if _is_reconfiguration(event):
        return f"Reconfigured{what} on {_plain(host)}{place}."
    who = _plain(event.by.who)
    if event.by.as_principal is not None:
        who += f" as {_plain(event.by.as_principal)}"
    if event.served_uid is not None:
        who += f" for uid {event.served_uid}"
    reason = "" if event.reason is None else f": {_plain(event.reason)}"
    return f"{_plain(event.operation)}{what}{place} on {_plain(host)} by {who}: {event.outcome}{reason}."


def text(event: Event, host: str) -> str:
    """As vSphere words it: a sentence, then the changes under `Modified:`, `Added:` and `Deleted:`."""
    first = sentence(event, host)
    if not event.changes:
        return first
    parts = [f"{first}\n \nModified: \n \n"]
    parts += [f"{_plain(c.path)}:{shown(c.before)} -> {shown(c.after)}; \n\n" for c in _of("modified", event)]
    parts.append(" Added: \n \n")
    parts += [f"{_plain(c.path)}:{shown(c.after)}; \n\n" for c in _of("added", event)]
    parts.append(" Deleted: \n \n")
    parts += [f"{_plain(c.path)}:{shown(c.before)}; \n\n" for c in _of("deleted", event)]
    return "".join(parts)


def shown(value: Value) -> str:
    """A value as vSphere writes it: `<unset>`, `"text"`, `(name = "x",other = 1)`, `("a","b")`, `()`."""
    if value is None:
        return "<unset>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Mapping):
        return f"({','.join(f'{_plain(name)} = {shown(item)}' for name, item in value.items())})"
    return f"({','.join(map(shown, value))})"


def _is_reconfiguration(event: Event) -> bool:
    """vSphere's word for changes of a VM's configuration, which keyd saw itself: it names nobody."""
    return (
        event.object is not None
        and not event.reported
        and event.object.kind == "vm"
        and event.outcome == "done"
        and bool(event.changes)
        and all(change.path.startswith("config.") for change in event.changes)
    )


def _of(kind: ChangeKind, event: Event) -> list[Change]:
    return [change for change in event.changes if change.kind == kind]


def _plain(words: str) -> str:
    """The words on one line."""
    if words.isprintable():
        return words
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in words)


def _quoted(words: str) -> str:
    """The words in quotation marks, which end where these end."""
    return '"' + _plain(words.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _check_change(change: Change) -> None:
    if (change.kind == "added" and change.before is not None) or (
        change.kind == "deleted" and change.after is not None
    ):
        raise ValueError
    _check_value(change.before, _MAX_DEPTH)
    _check_value(change.after, _MAX_DEPTH)


def _check_value(value: object, depth: int) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, int) and -_MAX_INT <= value <= _MAX_INT:
        return
    if isinstance(value, str) and len(value) <= MAX_TEXT:
        return
    if depth and isinstance(value, list | dict) and len(value) <= MAX_ITEMS:
        for item in value.values() if isinstance(value, dict) else value:
            _check_value(item, depth - 1)
        if not isinstance(value, dict) or all(len(name) <= MAX_TEXT for name in value):
            return
    raise ValueError


def _first(changes: tuple[Change, ...], most: int) -> tuple[Change, ...]:
    return (*changes[:most], added("changes not shown", len(changes) - most))


def _fit(value: Value, depth: int = _MAX_DEPTH) -> Value:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -_MAX_INT <= value <= _MAX_INT else str(value)
    if isinstance(value, str):
        return _cut(value)
    if not depth:
        return "…"
    if isinstance(value, Mapping):
        return {_cut(name): _fit(item, depth - 1) for name, item in list(value.items())[:MAX_ITEMS]}
    items = [_fit(item, depth - 1) for item in value[:MAX_ITEMS]]
    return items if len(value) <= MAX_ITEMS else [*items[:-1], f"… {len(value) - MAX_ITEMS + 1} more"]


def _fit_thing(thing: Thing | None) -> Thing | None:
    if thing is None:
        return None
    return Thing(_cut(thing.kind, MAX_OPERATION), _cut(thing.id, MAX_ID), _name(thing.shown))


def _name(words: str) -> str:
    return _cut(words, MAX_NAME)


def _name_or_none(words: str | None) -> str | None:
    return None if words is None else _name(words)


def _cut(words: str, most: int = MAX_TEXT) -> str:
    """At most so many characters; what are no characters is escaped."""
    whole = words.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return whole if len(whole) <= most else f"{whole[: most - 1]}…"
