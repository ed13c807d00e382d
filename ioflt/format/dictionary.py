"""The `key = "value"` dialect of VMware's text files (.vmx, .vmsd, .vmdk), kept losslessly.

A file is a tuple of lines; a line is its raw bytes and, where it has them, key and value. What was not asked
to change comes back byte for byte: comments, odd lines, NULs, CRLF, a missing final newline, any encoding.
Layout and worked bytes: `vmx/SPEC.md`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ioflt.errors import MalformedError, UsageError

#: Longest dictionary accepted, in bytes. A VMX is a few KiB.
MAX_SIZE: Final = 1 << 20

# No two neighbouring repeats can take the same byte: matching stays linear on hostile lines.
_LINE = re.compile(
    rb"""[ \t]* (?P<key> [^\s="\#|\0] [^\s="|\0]* ) [ \t]* =
         \s* (?: "(?P<quoted> [^"]* )" \s* | (?P<bare> [^\s"] [^"]* ) )?""",
    re.VERBOSE,
)
_KEY = re.compile(r'[^\s="#|\0][^\s="|\0]*')
_ESCAPE = re.compile(r"\|([0-9A-Fa-f]{2})")
_ESCAPED = re.compile(r'["|\x00-\x1f\x7f]')

#: What `.encoding` says, folded to letters and digits, and the codec it means. A closed list: a name from a
#: hostile file is not looked up among all codecs.
_CODECS: Final = {
    "utf8": "utf-8",
    "usascii": "ascii",
    "iso88591": "iso-8859-1",
    "iso885915": "iso-8859-15",
    "shiftjis": "shift_jis",
    "windows31j": "cp932",
    "windows932": "cp932",
    "windows936": "gbk",
    "windows949": "cp949",
    "windows950": "cp950",
    "gbk": "gbk",
    "gb18030": "gb18030",
    "big5": "big5",
    "eucjp": "euc_jp",
    "euckr": "euc_kr",
} | {f"windows125{n}": f"cp125{n}" for n in range(9)}


@dataclass(frozen=True, slots=True)
class Line:
    """One line with its end. `key` is None for comments, blank lines and whatever is not `key = value`."""

    raw: bytes
    key: str | None = None
    value: str = ""


class Dictionary(Mapping[str, str]):
    """An immutable dictionary file. `bytes(parse(data)) == data`, always.

    Keys are looked up without regard to case. Of a key given twice the last line counts. Values are decoded:
    by `.encoding`, else as UTF-8 (stray bytes become surrogates), and `|22` to `"`.
    """

    __slots__ = ("_effective", "codec", "lines")

    def __init__(self, lines: tuple[Line, ...], codec: str = "utf-8") -> None:
        self.lines = lines
        self.codec = codec
        self._effective = {line.key.lower(): n for n, line in enumerate(lines) if line.key is not None}

    def __bytes__(self) -> bytes:
        return b"".join(line.raw for line in self.lines)

    def __getitem__(self, key: str) -> str:
        return self.lines[self._effective[key.lower()]].value

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.lower() in self._effective

    def __iter__(self) -> Iterator[str]:
        for number in self._effective.values():
            key = self.lines[number].key
            if key is not None:
                yield key

    def __len__(self) -> int:
        return len(self._effective)

    def __repr__(self) -> str:
        return f"<Dictionary of {len(self.lines)} lines>"  # values may be keys

    def line(self, key: str) -> Line | None:
        """The line that counts for `key`, or None."""
        number = self._effective.get(key.lower())
        return None if number is None else self.lines[number]

    def set(self, key: str, value: str) -> Dictionary:
        """A dictionary with `key` set: its line is rewritten, a new one goes last (but before NULs).

        Raises UsageError for a key that cannot be one, and for text that the file's encoding does not have.
        """
        if not _KEY.fullmatch(key):
            raise UsageError(f"not a dictionary key: {key!r}")
        number = self._effective.get(key.lower())
        if number is None:
            return self._append(key, value)
        old = self.lines[number]
        line = self._line(old.key or key, value, _ending(old.raw))
        return Dictionary((*self.lines[:number], line, *self.lines[number + 1 :]), self.codec)

    def remove(self, key: str) -> Dictionary:
        """A dictionary without `key`: every line that gives it goes. The same one when there is none."""
        if key not in self:
            return self
        folded = key.lower()
        kept = tuple(line for line in self.lines if line.key is None or line.key.lower() != folded)
        return Dictionary(kept, self.codec)

    def _append(self, key: str, value: str) -> Dictionary:
        body = self.lines
        tail: tuple[Line, ...] = ()
        if body and body[-1].raw and not body[-1].raw.strip(b"\0"):
            body, tail = body[:-1], body[-1:]
        ending = (_ending(body[0].raw) if body else b"") or b"\n"
        if body and not _ending(body[-1].raw):
            last = body[-1]
            body = (*body[:-1], Line(last.raw + ending, last.key, last.value))
        return Dictionary((*body, self._line(key, value, ending), *tail), self.codec)

    def _line(self, key: str, value: str, ending: bytes) -> Line:
        text = f'{key} = "{escape(value)}"'
        try:
            return Line(text.encode(self.codec, "surrogateescape") + ending, key, value)
        except UnicodeEncodeError as error:
            raise UsageError(f"the value of {key} cannot be written in {self.codec}") from error


def parse(data: bytes, limit: int = MAX_SIZE) -> Dictionary:
    """The dictionary in `data`. Any bytes are one; only their size is bounded.

    Raises MalformedError "too large" when `data` is longer than `limit`.
    """
    if len(data) > limit:
        raise MalformedError("too large", f"{len(data)} bytes, at most {limit}")
    raws = data.split(b"\n")
    raws = [raw + b"\n" for raw in raws[:-1]] + ([raws[-1]] if raws[-1] else [])
    matches = [_LINE.fullmatch(raw) for raw in raws]
    codec = _codec(matches)
    pairs = zip(raws, matches, strict=True)
    lines = (Line(raw) if match is None else _decoded(raw, match, codec) for raw, match in pairs)
    return Dictionary(tuple(lines), codec)


def escape(value: str) -> str:
    """`value` as it stands between the quotes: `"`, `|` and control characters as `|` and two hex digits."""
    return _ESCAPED.sub(lambda match: f"|{ord(match[0]):02X}", value)


def unescape(text: str) -> str:
    """The inverse of `escape`. A `|` without two hex digits stands for itself."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)


def _codec(matches: list[re.Match[bytes] | None]) -> str:
    named = [m for m in matches if m is not None and m["key"].lower() == b".encoding"]
    if not named:
        return "utf-8"
    name = (named[-1]["quoted"] or named[-1]["bare"] or b"").decode("ascii", "replace")
    return _CODECS.get(re.sub(r"[^a-z0-9]", "", name.lower()), "utf-8")


def _decoded(raw: bytes, match: re.Match[bytes], codec: str) -> Line:
    value = match["quoted"] if match["quoted"] is not None else (match["bare"] or b"").rstrip()
    key = match["key"].decode("utf-8", "surrogateescape")
    return Line(raw, key, unescape(_text(value, codec)))


def _text(value: bytes, codec: str) -> str:
    try:
        return value.decode(codec)
    except UnicodeDecodeError:
        return value.decode("utf-8", "surrogateescape")


def _ending(raw: bytes) -> bytes:
    if raw.endswith(b"\r\n"):
        return b"\r\n"
    return b"\n" if raw.endswith(b"\n") else b""
