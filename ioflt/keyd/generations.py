"""Generations of homes, kept by providers beside the homes' keys: best effort, one keeper after the other."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ioflt.errors import KeyUnavailableError
from ioflt.keys.provider import Generations
from ioflt.types import KeyRef

_log = logging.getLogger(__name__)


def note(keepers: Iterable[tuple[KeyRef, Generations]], home_id: str, generation: int) -> None:
    """Have all of them note it. What fails is logged: the host's own memory has it."""
    for key, keeper in keepers:
        try:
            keeper.note(key.key_id, home_id, generation)
        except KeyUnavailableError as error:
            _log.info("generation %d of home %s is not noted with %s: %s", generation, home_id, key, error)


def seen(keepers: Iterable[tuple[KeyRef, Generations]], home_id: str) -> tuple[int, bool]:
    """The highest that one of them noted, 0 if none did; and whether all could be asked."""
    highest, sure = 0, True
    for key, keeper in keepers:
        try:
            highest = max(highest, keeper.seen(key.key_id, home_id))
        except KeyUnavailableError as error:
            sure = False
            _log.info("what was seen of the home %s is not known from %s: %s", home_id, key, error)
    return highest, sure
