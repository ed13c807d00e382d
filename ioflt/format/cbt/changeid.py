"""Change ids, in the form that VMware prints: `52 ab f5 21 86 ad f2 ff-5b ef c0 f2 3b 53 eb 3b/78`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ioflt.errors import BugError, UsageError

#: In place of a change id: all that is allocated.
ALL: Final = "*"

UUID_SIZE: Final = 16
MAX_SEQUENCE: Final = 2**32 - 1

_EXAMPLE: Final = "52 ab f5 21 86 ad f2 ff-5b ef c0 f2 3b 53 eb 3b/78"
_FORM = re.compile(r"((?:[0-9a-f]{2} ){7}[0-9a-f]{2})-((?:[0-9a-f]{2} ){7}[0-9a-f]{2})/(0|[1-9][0-9]{0,9})")


@dataclass(frozen=True, slots=True)
class ChangeId:
    """A point in the life of a disk file: what changed in a higher `sequence` changed after it.

    The sequences of one `uuid` alone can be compared.
    """

    uuid: bytes
    sequence: int

    def __post_init__(self) -> None:
        if len(self.uuid) != UUID_SIZE or not 0 <= self.sequence <= MAX_SEQUENCE:
            raise BugError(f"change id of {len(self.uuid)} bytes and {self.sequence}")

    def __str__(self) -> str:
        return f"{self.uuid[:8].hex(' ')}-{self.uuid[8:].hex(' ')}/{self.sequence}"


def parse(text: str) -> ChangeId:
    """The id of that text, which is just as `str` gives it. Raises UsageError."""
    match = _FORM.fullmatch(text)
    if match is None or int(match[3]) > MAX_SEQUENCE:
        raise UsageError(f"no change id: {ascii(text)[:80]}; one looks like {_EXAMPLE}")
    return ChangeId(bytes.fromhex(match[1] + match[2]), int(match[3]))
