"""The manifest (.mf) of an OVF package: one `ALGORITHM(name)= hex digest` for each file."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from ioflt.errors import AuthenticationError, MalformedError, UnsupportedError
from ioflt.format.vmdk.descriptor import confine

#: Longest manifest accepted, in bytes.
MAX_SIZE: Final = 1 << 20

#: hashlib's name and the digest's length in bytes, by the manifest's name of the algorithm.
ALGORITHMS: Final = {"SHA1": ("sha1", 20), "SHA256": ("sha256", 32), "SHA512": ("sha512", 64)}

_LINE = re.compile(r"([0-9A-Za-z-]{1,16}) ?\((.+)\) ?= ?([0-9A-Fa-f]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Entry:
    """The digest of one file. `algorithm` is one of ALGORITHMS."""

    name: str
    algorithm: str
    digest: bytes


def parse(data: bytes) -> tuple[Entry, ...]:
    """The manifest's entries, in order.

    Raises MalformedError "too large", "not UTF-8", "odd line", "bad digest length", "file name not confined"
    or "duplicate entry"; UnsupportedError "unknown digest".
    """
    if len(data) > MAX_SIZE:
        raise MalformedError("too large", f"manifest of {len(data)} bytes, at most {MAX_SIZE}")
    try:
        text = data.decode().rstrip("\0")
    except UnicodeDecodeError:
        raise MalformedError("not UTF-8") from None
    entries = tuple(_entry(line.strip()) for line in text.split("\n") if line.strip())
    if len({(entry.name, entry.algorithm) for entry in entries}) != len(entries):
        raise MalformedError("duplicate entry")
    return entries


def write(entries: Iterable[Entry]) -> bytes:
    """The manifest's text."""
    lines = (f"{entry.algorithm}({entry.name})= {entry.digest.hex()}\n" for entry in entries)
    return "".join(lines).encode()


def verify(entries: Iterable[Entry], digest_of: Callable[[str, str], bytes | None]) -> None:
    """Check every entry against `digest_of(name, algorithm)`, which answers None for a file that is missing.

    Raises AuthenticationError "digest does not verify", MalformedError "listed file missing", with the file.
    """
    for entry in entries:
        digest = digest_of(entry.name, entry.algorithm)
        if digest is None:
            raise MalformedError("listed file missing", file=entry.name)
        if not hmac.compare_digest(digest, entry.digest):
            raise AuthenticationError("digest does not verify", entry.algorithm, file=entry.name)


def _entry(line: str) -> Entry:
    match = _LINE.fullmatch(line)
    if match is None:
        raise MalformedError("odd line", repr(line[:60]))
    algorithm = match[1].upper().replace("-", "")
    if algorithm not in ALGORITHMS:
        raise UnsupportedError("unknown digest", match[1])
    if len(match[3]) != 2 * ALGORITHMS[algorithm][1]:
        raise MalformedError("bad digest length", algorithm)
    return Entry(confine(match[2], "file"), algorithm, bytes.fromhex(match[3]))
