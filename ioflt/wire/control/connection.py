"""Both sides of a control connection: one frame asks, one frame answers."""

from __future__ import annotations

from typing import Any

import msgspec

from ioflt.wire.control.messages import ReplyBody, RequestBody
from ioflt.wire.frame import ReceiveBuffer, write_frame

#: `write(message)` gives the bytes to send, for either side.
write = write_frame

# msgspec takes a union where its annotations know only of classes.
_REQUEST: Any = RequestBody
_REPLY: Any = ReplyBody


def requests() -> ReceiveBuffer[RequestBody]:
    """What a mount reads from."""
    return ReceiveBuffer(msgspec.msgpack.Decoder(_REQUEST))


def replies() -> ReceiveBuffer[ReplyBody]:
    """What a client reads from."""
    return ReceiveBuffer(msgspec.msgpack.Decoder(_REPLY))
