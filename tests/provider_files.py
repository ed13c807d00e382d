"""Bytes of providers' files: one with other fields, and what is wrong in a file of any kind."""

from __future__ import annotations

import msgspec

from ioflt.keys.provider_file import write


def changed(file: msgspec.Struct, **fields: object) -> bytes:
    """The file's bytes, some fields of the object being others."""
    return msgspec.json.encode(msgspec.json.decode(write(file)) | fields)


def malformed(file: msgspec.Struct) -> list[tuple[bytes, str]]:
    """Bytes that are no provider's file, each with the reason that the parser has to name."""
    return [
        (b"", "bad JSON"),
        (b"[]", "not an object"),
        (b" " * (64 << 10) + b"{}", "too large"),
        (changed(file, format="ioflt other provider"), "wrong format"),
        (changed(file, version=2), "unknown version"),
        (changed(file, version=True), "unknown version"),
        (changed(file, name="../corp"), "bad field"),
        (changed(file, uuid="1"), "bad field"),
        (changed(file, timeout=0), "bad field"),
        (changed(file, timeout=61), "bad field"),
        (changed(file, more=1), "bad field"),
    ]
