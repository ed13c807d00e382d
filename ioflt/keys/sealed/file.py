"""The sealed keys of one provider: bytes ↔ frozen object. Layout, limits and reasons in keys/SPEC.md.

Reasons: "too large", "bad magic", "unknown version", "bad encoding", "bad field", "twice the same key",
"not canonical".
"""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec

from ioflt.crypto.mac import TAG_SIZE
from ioflt.errors import MalformedError, UnsupportedError
from ioflt.keys.cache import CAPACITY
from ioflt.keys.native.file import Pcrs, Tcti, WrappedKey
from ioflt.keys.provider_file import Meta, Uuid
from ioflt.types import MAX_KEY_ID
from ioflt.wire.keyd.values import MAX_CACHE_DAYS

MAGIC: Final = b"ioflt key cache 1\n"

#: Most keys: as many as keyd has in memory.
MAX_KEYS: Final = CAPACITY

#: Longest file: that many keys with ids of 1,024 bytes take 18 MiB.
MAX_FILE: Final = 24 << 20

_VERSION = re.compile(rb"ioflt key cache ([0-9]{1,9})\n")

#: Seconds since 1970.
Time = Annotated[int, Meta(ge=0, lt=2**53)]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class CredentialSeal(_Struct, frozen=True, tag_field="kind", tag="systemd-creds"):
    """The file's own key as a systemd credential under the host's key."""

    credential: Annotated[bytes, Meta(min_length=1, max_length=16384)]


class TpmSeal(_Struct, frozen=True, tag_field="kind", tag="tpm2"):
    """The file's own key as an object of a TPM 2.0, which releases it in one state of its PCRs."""

    tcti: Tcti
    pcrs: Pcrs
    public: Annotated[bytes, Meta(min_length=1, max_length=1024)]
    private: Annotated[bytes, Meta(min_length=1, max_length=1024)]


Seal = CredentialSeal | TpmSeal


class SealedKey(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A KEK under the file's own key, and when its provider gave it last."""

    key_id: Annotated[str, Meta(min_length=1, max_length=MAX_KEY_ID)]
    fetched: Time
    blob: WrappedKey


class Content(_Struct, frozen=True):
    """`seen`: the latest time that keyd had seen; `days`: how long after `fetched` a key is good."""

    provider: Uuid
    days: Annotated[int, Meta(ge=1, le=MAX_CACHE_DAYS)]
    seen: Time
    seal: Seal
    keys: Annotated[tuple[SealedKey, ...], Meta(max_length=MAX_KEYS)]


def signed(content: Content) -> bytes:
    """The file without its end, the MAC over it."""
    return MAGIC + msgspec.msgpack.encode(content)


def parse(data: bytes) -> tuple[Content, bytes]:
    """The content, which is not verified yet, and its MAC. Raises MalformedError, UnsupportedError."""
    if len(data) > MAX_FILE:
        raise MalformedError("too large", f"more than {MAX_FILE} bytes")
    if not data.startswith(MAGIC):
        version = _VERSION.match(data)
        if version is not None:
            raise UnsupportedError("unknown version", version[1].decode())
        raise MalformedError("bad magic")
    body, mac = data[len(MAGIC) : -TAG_SIZE], data[-TAG_SIZE:]
    try:
        content = msgspec.msgpack.decode(body, type=Content)
    except msgspec.ValidationError as error:
        raise MalformedError("bad field", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, MemoryError, RecursionError) as error:
        raise MalformedError("bad encoding", str(error)) from None
    if len({key.key_id for key in content.keys}) != len(content.keys):
        raise MalformedError("twice the same key")
    if signed(content) + mac != data:
        raise MalformedError("not canonical")
    return content, mac
