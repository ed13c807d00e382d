"""What a `token` asks its `worker`, and the answers: frames as in wire/keyd, one request at a time.

Both ends are of one installation, so there is no version. The worker, in which a vendor's code runs, is not
trusted with more than it needs: answers are checked as strictly as those of strangers.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ioflt.keys.provider import KEK_SIZE
from ioflt.wire.failure import Failure

#: Most items of one request. At 10 ms for each, which is slow for an HSM, that is less than a second.
MAX_BATCH = 64

#: Bytes of AES-GCM's nonce, and of its tag.
NONCE_SIZE = 12
TAG_SIZE = 16

#: Longest PIN, in bytes of UTF-8; the standard has no limit.
MAX_PIN = 255

Meta = msgspec.Meta

#: How many wrong PINs the token still takes, as far as it tells.
Tries = Literal["enough", "few", "one", "none"]

_Kek = Annotated[bytearray, Meta(min_length=KEK_SIZE, max_length=KEK_SIZE)]
_Text = Annotated[str, Meta(max_length=4096)]
_Batch = Meta(max_length=MAX_BATCH)


class _Message(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag=str.lower, gc=False
):
    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


# Requests, in this order


class Hello(_Message, frozen=True):
    """→ Said: the worker is there."""


class Load(_Message, frozen=True):
    """→ Said: what the module calls itself."""

    module: str


class FindToken(_Message, frozen=True):
    """→ TokenFound."""

    label: str


class LogIn(_Message, frozen=True):
    """→ Said; Refused. `write`: to make a key."""

    pin: Annotated[bytearray, Meta(max_length=MAX_PIN)]
    write: bool


class FindKey(_Message, frozen=True):
    """→ Said: what key it is. `make`: one is made where there is none."""

    label: str
    make: bool


class Wrap(_Message, frozen=True):
    """→ Wrapped."""

    nonce: bytes
    kek: _Kek
    associated_data: bytes


class Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A KEK under AES-GCM: `ciphertext` ends with the tag."""

    nonce: bytes
    ciphertext: bytes
    associated_data: bytes


class Unwrap(_Message, frozen=True):
    """→ Unwrapped."""

    items: Annotated[tuple[Sealed, ...], _Batch]


ToToken = FindToken | LogIn | FindKey | Wrap | Unwrap
Request = Hello | Load | ToToken


# Replies


class Said(_Message, frozen=True):
    text: _Text


class TokenFound(_Message, frozen=True):
    """What the token calls itself, and how many wrong PINs it takes."""

    text: _Text
    tries: Tries


class Refused(_Message, frozen=True):
    """The token does not let this PIN in."""

    reason: _Text


class Wrapped(_Message, frozen=True):
    ciphertext: Annotated[bytes, Meta(min_length=KEK_SIZE + TAG_SIZE, max_length=KEK_SIZE + TAG_SIZE)]


class Unwrapped(_Message, frozen=True):
    """`keks` has the length of the request; it is empty where `failures` has that index."""

    keks: Annotated[tuple[Annotated[bytearray, Meta(max_length=KEK_SIZE)], ...], _Batch]
    failures: Annotated[dict[int, Failure], _Batch]


class Lost(_Message, frozen=True):
    """Something went wrong that another session may not have."""

    reason: _Text


Reply = Said | TokenFound | Refused | Wrapped | Unwrapped | Lost | Failure
