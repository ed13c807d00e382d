"""What lies in a frame of the keyd protocol: a request, or the reply to it."""

from __future__ import annotations

from typing import Annotated

from ioflt.wire.keyd.replies import ReplyBody
from ioflt.wire.keyd.requests import RequestBody
from ioflt.wire.keyd.values import Meta, Struct

#: The versions of the protocol that this side speaks: whatever is changed of a message, it is another one.
VERSIONS = (3,)

#: Those in which Stop is the same: a keyd of any of them can be ended.
STOPPED_IN = (2, 3)


class Request(Struct, frozen=True):
    id: Annotated[int, Meta(ge=0, lt=2**32)]
    body: RequestBody


class Reply(Struct, frozen=True):
    id: Annotated[int, Meta(ge=0, lt=2**32)]
    body: ReplyBody
