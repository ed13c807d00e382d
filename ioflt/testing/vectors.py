"""Test vectors: header lines, an empty line, bytes. `tests/vectors/README.md` has the grammar."""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ioflt.errors import UsageError

_PACKED = ("body", "zlib base64")
_LINE = 76


@dataclass(frozen=True, slots=True)
class Vector:
    """One file of `tests/vectors`. `headers` in order, `body` unpacked."""

    name: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def expect(self) -> str:
        """`ok`, or the `reason` of the error that the body must give."""
        return self.headers["expect"]


def read(folder: Path) -> list[Vector]:
    """All vectors of a folder, by name."""
    return [_parse(path) for path in sorted(folder.iterdir())]


def to_bytes(vector: Vector) -> bytes:
    """The file of a vector; its body is packed when the headers say so."""
    head = "".join(f"{name}: {value}\n" for name, value in vector.headers.items())
    body = vector.body
    if _PACKED in vector.headers.items():
        text = b64encode(zlib.compress(body, 9)).decode()
        body = "".join(f"{text[start : start + _LINE]}\n" for start in range(0, len(text), _LINE)).encode()
    return head.encode() + b"\n" + body


def _parse(path: Path) -> Vector:
    head, found, body = path.read_bytes().partition(b"\n\n")
    lines = [line.partition(": ") for line in head.decode().split("\n")]
    if not found or not all(colon for _, colon, _ in lines):
        raise UsageError("not a vector", file=path)
    headers = {name: value for name, _, value in lines}
    if _PACKED in headers.items():
        body = zlib.decompress(b64decode(body))
    return Vector(path.name, headers, body)
