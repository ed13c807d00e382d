"""A key safe: a list of pairs, each of which gives the same key to whoever has one of the keys around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ioflt.errors import MalformedError
from ioflt.format.keysafe import locator as locators
from ioflt.format.keysafe.locator import FqidLocator, ListLocator, PairLocator, PhraseLocator
from ioflt.types import KeyRef

#: Most pairs accepted. Each phrase pair may cost a passphrase derivation.
MAX_PAIRS: Final = 16


@dataclass(frozen=True, slots=True)
class KeySafe:
    """One to MAX_PAIRS pairs."""

    pairs: tuple[PairLocator, ...]

    @property
    def keys(self) -> tuple[KeyRef, ...]:
        """The KEKs of the pairs that name one by provider and key id."""
        return tuple(
            KeyRef(pair.locator.server_id, pair.locator.key_id)
            for pair in self.pairs
            if isinstance(pair.locator, FqidLocator) and pair.locator.server_id is not None
        )

    @property
    def key(self) -> KeyRef | None:
        """The first of the KEKs."""
        return next(iter(self.keys), None)


def parse(text: str) -> KeySafe:
    """The key safe in `text`, the value of `encryption.keySafe`.

    Raises MalformedError "not a key safe", "too many pairs" and those of `locator.parse`.
    """
    found = locators.parse(text)
    if not isinstance(found, ListLocator):
        raise MalformedError("not a key safe", "not a list")
    pairs = tuple(member for member in found.members if isinstance(member, PairLocator))
    if len(pairs) != len(found.members):
        raise MalformedError("not a key safe", "a member is not a pair")
    if len(pairs) > MAX_PAIRS:
        raise MalformedError("too many pairs", f"{len(pairs)}, at most {MAX_PAIRS}")
    return KeySafe(pairs)


def write(safe: KeySafe) -> str:
    """The canonical text of `safe`."""
    return locators.write(ListLocator(safe.pairs))


def describe(pair: PairLocator) -> str:
    """What opens `pair`, in a few words without secrets: for `inspect`."""
    match pair.locator:
        case FqidLocator(server_id=server, key_id=key_id):
            return f"key {server or '-'}:{key_id}"
        case PhraseLocator():
            return "passphrase"
        case other:
            return type(other).__name__.removesuffix("Locator").lower()
