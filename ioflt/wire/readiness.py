"""What the process of a mount tells whoever started it, in a line of JSON: that it serves, or why not."""

from __future__ import annotations

from typing import Final

import msgspec

from ioflt.wire.failure import Failure

#: Ends the line.
END: Final = b"\n"


class Serves(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="type",
    tag="serves",
    omit_defaults=True,
):
    """The mount is served. `lacking`: the datastore's own keys, none of which can be had, and `why`."""

    lacking: tuple[str, ...] = ()
    why: Failure | None = None


def write(told: Serves | Failure) -> bytes:
    """The line."""
    return msgspec.json.encode(told) + END


def read(line: bytes) -> Serves | Failure:
    """What was told. Raises msgspec.DecodeError for anything else, also for half a line."""
    if not line.endswith(END):
        raise msgspec.DecodeError("it was not told to the end")
    return msgspec.json.decode(line, type=Serves | Failure)
