"""A share ↔ lines of text, each with a check of its own. Layout and reasons in SPEC.md."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ioflt.crypto.secret import Secret
from ioflt.errors import MalformedError, UnsupportedError

#: Longest text read, in bytes.
MAX_SIZE = 8192

#: Bytes of a share.
SIZE = 48

#: Most shares of a key.
MAX_SHARES = 64

_MAGIC = "ioflt provider share "
_VERSION = "1"
_LINE_BYTES = 8
_DATA = tuple(str(number) for number in range(1, SIZE // _LINE_BYTES + 1))
_LABELS = ("provider", "uuid", "kdk", "opens-by", "set", "share", "needs", *_DATA)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SET = re.compile(r"[0-9a-f]{8}")
_COUNT = re.compile(r"[1-9][0-9]?")
_OPENS_BY = re.compile(r"host|passphrase")


@dataclass(frozen=True, slots=True)
class Share:
    """Share `index` of `count`, any `threshold` of which give the key. `set_id` names this splitting."""

    name: str
    uuid: str
    kdk_id: str
    protection: str
    set_id: str
    index: int
    count: int
    threshold: int
    data: Secret = field(repr=False)


def is_share(data: bytes) -> bool:
    """Whether it begins as a share does."""
    return data.startswith(_MAGIC.encode())


def write(share: Share) -> bytes:
    """The text: what to do with it, then the lines to type in."""
    files = " ".join(["FILE"] * min(share.threshold, 3)) + (" ..." if share.threshold > 3 else "")
    lines = [
        f"{_MAGIC}{_VERSION}",
        f"# Share {share.index} of {share.count} of the key provider {share.name}.",
        f"# Any {share.threshold} of the {share.count} bring its keys back:",
        f"#     ioflt provider restore {files}",
        f"# Fewer say nothing of the key. Keep the {share.count} in different places.",
        "# Typed in again: this line and all that begin with # may be left out; upper and lower",
        "# case, and spaces, do not matter in the numbered lines. What ends a line checks it.",
    ]
    lines += [f"{label:<9} {value:<36}  {_check(label, value)}" for label, value in _fields(share)]
    return "".join(f"{line}\n" for line in lines).encode()


def parse(data: bytes) -> Share:
    """The share. Raises MalformedError and UnsupportedError with a named reason and the line."""
    if len(data) > MAX_SIZE:
        raise MalformedError("too large", f"{len(data)} bytes")
    try:
        lines = data.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise MalformedError("not a share", "not plain text") from None
    head = lines[0].strip()
    if not head.startswith(_MAGIC):
        raise MalformedError("not a share")
    if head != _MAGIC + _VERSION:
        raise UnsupportedError("unknown version", head.removeprefix(_MAGIC)[:20])
    return _share(_read_lines(lines[1:]))


def _fields(share: Share) -> Iterator[tuple[str, str]]:
    yield "provider", share.name
    yield "uuid", share.uuid
    yield "kdk", share.kdk_id
    yield "opens-by", share.protection
    yield "set", share.set_id
    yield "share", f"{share.index}/{share.count}"
    yield "needs", str(share.threshold)
    for number, label in enumerate(_DATA):
        part = share.data.view()[number * _LINE_BYTES : (number + 1) * _LINE_BYTES]
        yield label, part.hex(" ", 2)


def _check(label: str, value: str) -> str:
    """Four hexadecimal digits that a mistyped line has by a chance of 1 in 65,536."""
    return hashlib.sha256(f"{label} {value}".encode()).hexdigest()[:4]


def _read_lines(lines: list[str]) -> Mapping[str, str]:
    """Each line's value by its label."""
    found: dict[str, str] = {}
    for line in lines:
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        label = words[0].lower()
        if label not in _LABELS:
            raise MalformedError("unknown line", line.strip()[:40])
        if label in found:
            raise MalformedError("twice the same line", label)
        if len(words) < 3:
            raise MalformedError("incomplete line", label)
        *parts, check = words[1:]
        value = _number(parts) if label in _DATA else " ".join(parts)
        if check.lower() != _check(label, value):
            raise MalformedError("mistyped line", label)
        found[label] = value
    for label in _LABELS:
        if label not in found:
            raise MalformedError("missing line", label)
    return found


def _number(parts: list[str]) -> str:
    """Hexadecimal digits in the one way in which they are written."""
    digits = "".join(parts).lower()
    return " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))


def _share(lines: Mapping[str, str]) -> Share:
    index, slash, count = lines["share"].partition("/")
    numbers = [_match(_COUNT, text, label) for text, label in ((index, "share"), (count, "share"))]
    share = Share(
        _match(_NAME, lines["provider"], "provider"),
        _match(_UUID, lines["uuid"], "uuid"),
        _match(_UUID, lines["kdk"], "kdk"),
        _match(_OPENS_BY, lines["opens-by"], "opens-by"),
        _match(_SET, lines["set"], "set"),
        int(numbers[0]),
        int(numbers[1]),
        int(_match(_COUNT, lines["needs"], "needs")),
        _data(lines),
    )
    if not slash or not share.index <= share.count <= MAX_SHARES or not 2 <= share.threshold <= share.count:
        raise MalformedError("bad field", "share or needs")
    return share


def _match(pattern: re.Pattern[str], value: str, label: str) -> str:
    if not pattern.fullmatch(value):
        raise MalformedError("bad field", label)
    return value


def _data(lines: Mapping[str, str]) -> Secret:
    data = Secret.allocate(SIZE)
    for number, label in enumerate(_DATA):
        try:
            part = bytes.fromhex(lines[label])
        except ValueError:
            part = b""
        if len(part) != _LINE_BYTES:
            raise MalformedError("bad field", label)
        data.buffer()[number * _LINE_BYTES : (number + 1) * _LINE_BYTES] = part
    return data
