"""A container's header while its body gets a new DEK in place: what it is, and what it becomes.

The metadata to be is put together from the token `ioflt-recrypt` and judged by the same profile as any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ioflt.errors import BugError, MalformedError, UnsupportedError, UsageError
from ioflt.format.luks2 import binary, profile
from ioflt.format.luks2.header import Header
from ioflt.format.luks2.token import TYPE, IofltToken

VERSION = 1

_FIELDS = {"type", "keyslots", "version", "uuid", "tokens", "digest", "slots"}


@dataclass(frozen=True, slots=True)
class Recrypt:
    """What a container becomes: its UUID, tokens, digest "0" and keyslots, as LUKS2 metadata."""

    uuid: str
    tokens: tuple[IofltToken, ...]
    digest: Mapping[str, Any]
    slots: Mapping[str, Any]

    @classmethod
    def to(cls, future: Header) -> Recrypt:
        """The change to a header that `header.new` made, and that got its tokens and keyslots."""
        metadata = future.metadata
        return cls(future.uuid, future.tokens, metadata["digests"]["0"], metadata["keyslots"])

    def to_json(self) -> dict[str, Any]:
        """The token as LUKS2 metadata."""
        return {
            "type": profile.RECRYPT_TYPE,
            "keyslots": [],
            "version": VERSION,
            "uuid": self.uuid,
            "tokens": [token.to_json() for token in self.tokens],
            "digest": dict(self.digest),
            "slots": dict(self.slots),
        }


def of(header: Header) -> Recrypt | None:
    """The change under way in a header of our profile; None when there is none.

    Raises UnsupportedError and MalformedError for every other header, and when what it would become is not
    of our profile.
    """
    if not profile.is_recrypting(header.metadata):
        return None
    found = profile.numbered(header.metadata, "tokens").values()
    change = _from_json(next(token for token in found if token["type"] == profile.RECRYPT_TYPE))
    if change.uuid == header.uuid:
        raise MalformedError("bad recrypt state", "the same UUID")
    profile.check(_future(header, change))
    if change.tokens[0].thin != header.thin:
        raise MalformedError("tokens disagree", "thin and thick")
    if header.tagged and not change.tokens[0].tagged:
        raise MalformedError("tokens disagree", "with and without tags")
    _check_apart(header, change)
    return change


def begin(header: Header, change: Recrypt) -> Header:
    """The header with that change under way, for its next write. Raises UsageError when it does not fit."""
    numbers = profile.numbered(header.metadata, "tokens")
    free = next((number for number in range(profile.MAX_OBJECTS) if number not in numbers), None)
    if free is None:
        raise UsageError(f"a container holds at most {profile.MAX_OBJECTS} tokens")
    metadata = header.metadata | {
        "tokens": header.metadata["tokens"] | {str(free): change.to_json()},
        "config": header.metadata["config"] | {"requirements": {"mandatory": [profile.RECRYPT_REQUIREMENT]}},
    }
    begun = header.with_metadata(metadata)
    if of(begun) != change:
        raise BugError("a recrypt that would be read as another")
    return begun.with_sequence(header.sequence + 1)


def end(header: Header, change: Recrypt) -> Header:
    """The header that `change` leads to, for its next write."""
    ended = replace(header.with_metadata(_future(header, change)), uuid=change.uuid)
    return ended.with_sequence(header.sequence + 1)


def _from_json(token: Mapping[str, Any]) -> Recrypt:
    if "version" in token and token["version"] != VERSION:
        raise UnsupportedError("unknown recrypt version", repr(token["version"])[:40])
    if set(token) != _FIELDS or token["keyslots"] != [] or type(token["version"]) is not int:
        raise MalformedError("bad recrypt token", "fields")
    uuid, tokens, digest, slots = token["uuid"], token["tokens"], token["digest"], token["slots"]
    if not isinstance(uuid, str) or not binary.is_uuid(uuid):
        raise MalformedError("bad recrypt token", "uuid")
    if not isinstance(digest, dict) or not isinstance(slots, dict):
        raise MalformedError("bad recrypt token", "digest or slots")
    if not isinstance(tokens, list) or not tokens or len(tokens) > profile.MAX_OBJECTS:
        raise MalformedError("bad recrypt token", "tokens")
    if not all(isinstance(made, dict) and made.get("type") == TYPE for made in tokens):
        raise MalformedError("bad recrypt token", "tokens")
    return Recrypt(uuid, tuple(map(IofltToken.from_json, tokens)), digest, slots)


def _future(header: Header, change: Recrypt) -> dict[str, Any]:
    """The metadata to be. What a foreign token says of keyslots is no longer true, so such a token goes."""
    kept = [
        token
        for _, token in sorted(profile.numbered(header.metadata, "tokens").items())
        if token["type"] not in (TYPE, profile.RECRYPT_TYPE) and not token.get("keyslots")
    ]
    tokens = [*(token.to_json() for token in change.tokens), *kept]
    config = {name: value for name, value in header.metadata["config"].items() if name != "requirements"}
    return {
        "keyslots": dict(change.slots),
        "tokens": {str(number): token for number, token in enumerate(tokens)},
        "segments": header.metadata["segments"],
        "digests": {"0": dict(change.digest)},
        "config": config,
    }


def _check_apart(header: Header, change: Recrypt) -> None:
    """A slot to be lies over no slot that is: until the end both are good."""
    now = [profile.keyslot_area(slot) for slot in header.metadata["keyslots"].values()]
    for slot in change.slots.values():
        area = profile.keyslot_area(slot)
        if any(area.offset < one.offset + one.size and one.offset < area.offset + area.size for one in now):
            raise MalformedError("keyslots overlap", "of a recrypt")
