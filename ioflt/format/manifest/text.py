"""`manifest.json`: bytes ↔ `Document`. There is one text for each, so that a signature is about one thing."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import msgspec

from ioflt.crypto.mac import sha256
from ioflt.errors import MalformedError, UnsupportedError
from ioflt.format.luks2.tags import SUFFIX
from ioflt.format.manifest.model import Document, Manifest, Signed
from ioflt.format.record.names import MAX_NAME, check_name, check_path
from ioflt.format.strict_json import parse_object

#: Longest file accepted: some 60,000 files with long paths.
MAX_SIZE: Final = 32 << 20

VERSION: Final = 1

#: The directory of what is kept as it is, and the ending of images.
FILES: Final = "files"
IMAGE: Final = ".qcow2"
NAME: Final = "manifest.json"

#: Names at the top of a home that are ours, and what of them a ciphertext point has.
_PRIVATE: Final = (".ioflt", ".ioflt.d")
_STORED: Final = re.compile(rf"\.ioflt|\.ioflt\.d/[^/]+{re.escape(SUFFIX)}")

_ODD: Final = re.compile(r"[%/:\x00-\x1f\x7f]")


def content(manifest: Manifest) -> bytes:
    """What is signed of a manifest, by its SHA-256."""
    return _canonical(msgspec.to_builtins(manifest))


def digest(manifest: Manifest) -> bytes:
    return sha256(content(manifest))


def write(manifest: Manifest, signed: Signed) -> bytes:
    """The file."""
    return _canonical(msgspec.to_builtins(Document(VERSION, manifest, signed)))


def parse(data: bytes) -> Document:
    """The document in a file.

    Raises MalformedError: those of `strict_json`, "too large", "bad manifest", "bad path", "bad name",
    "duplicate path", "image not of its disk", "parent not older", "not canonical"; UnsupportedError "unknown
    version".
    """
    if len(data) > MAX_SIZE:
        raise MalformedError("too large", f"more than {MAX_SIZE} bytes")
    value = parse_object(data)
    if (version := value.get("format")) != VERSION:
        raise UnsupportedError("unknown version", f"backup manifest {str(version)[:20]}")
    try:
        found = msgspec.convert(value, Document)
    except msgspec.ValidationError as error:
        raise MalformedError("bad manifest", str(error)[:200]) from None
    _check(found.manifest)
    if write(found.manifest, found.signed) != data:
        raise MalformedError("not canonical")
    return found


def image_of(path: str) -> str:
    """The name of the image of the disk at that path: one name, whatever directory the disk is in, and
    nothing else to QEMU. Of a path for which that is too long it is a digest.
    """
    name = _ODD.sub(lambda found: f"%{ord(found[0]):02X}", path) + IMAGE
    if len(name.encode("utf-8", "surrogateescape")) > MAX_NAME:
        return sha256(path.encode("utf-8", "surrogateescape")).hex() + IMAGE
    return name


def _check(manifest: Manifest) -> None:
    check_name(manifest.vm)
    parts = (manifest.disks, manifest.files, manifest.directories, manifest.links)
    for each in parts:
        paths = [check_path(part.path) for part in each]
        if paths != sorted(set(paths)):
            raise MalformedError("duplicate path", "or not sorted")
    every = [part.path for each in parts for part in each]
    if len(every) != len(set(every)):
        raise MalformedError("duplicate path")
    kept = {
        file.path for file in manifest.files if manifest.kind == "ciphertext" and _STORED.fullmatch(file.path)
    }
    for path in every:
        if path.partition("/")[0] in _PRIVATE and path not in kept:
            raise MalformedError("bad path", f"ours alone: {path[:80]!r}")
    for disk in manifest.disks:
        if disk.image != image_of(disk.path):
            raise MalformedError("image not of its disk", disk.image[:80])
        if disk.parent is not None and disk.parent >= manifest.point:
            raise MalformedError("parent not older", disk.parent)


def _canonical(value: Any) -> bytes:  # noqa: ANN401 whatever JSON holds
    """Names sorted, no blank, ASCII, a line's end. Bytes of names that are no UTF-8 are lone surrogates."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"
