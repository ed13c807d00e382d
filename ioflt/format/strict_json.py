"""JSON from a datastore, parsed without the leniencies of the standard parser.

Reasons: "not UTF-8", "bad JSON", "duplicate key", "absurd number", "nested too deeply", "not an object".
Lone surrogates in strings are let through (file names that are no UTF-8 travel as such); callers judge them.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from ioflt.errors import MalformedError

#: Deepest nesting accepted: that of json-c, which cryptsetup parses with.
MAX_DEPTH = 32

_MAX_DIGITS = 20  # of 2**64 - 1, the largest number anywhere in our formats


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object that `data` holds, and nothing else. Raises MalformedError."""
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_small_int,
            parse_float=_finite,
        )
    except UnicodeDecodeError:
        raise MalformedError("not UTF-8") from None
    except RecursionError:
        raise MalformedError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise MalformedError("bad JSON", f"{error.msg} at character {error.pos}") from None
    if not isinstance(value, dict):
        raise MalformedError("not an object")
    _check_depth(value, MAX_DEPTH)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise MalformedError("duplicate key")
    return made


def _no_constant(name: str) -> NoReturn:
    raise MalformedError("absurd number", name)


def _small_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise MalformedError("absurd number", f"{len(digits)} digits")
    return int(digits)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise MalformedError("absurd number")
    return value


def _check_depth(value: object, left: int) -> None:
    if not isinstance(value, dict | list):
        return
    if left == 0:
        raise MalformedError("nested too deeply")
    for child in value.values() if isinstance(value, dict) else value:
        _check_depth(child, left - 1)
