"""Shares as text: what is printed is read again as people type it, and each slip is named."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ioflt.format.share
from ioflt.crypto.secret import Secret
from ioflt.errors import CorruptDataError, UnsupportedError
from ioflt.format.share import text
from ioflt.format.share.text import SIZE, Share

SPEC = (Path(ioflt.format.share.__file__).parent / "SPEC.md").read_text()
UUID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
KDK_ID = "00112233-4455-6677-8899-aabbccddeeff"
SHARE = Share("corp", UUID, KDK_ID, "host", "5d3a90c1", 2, 5, 3, Secret(bytes(range(SIZE))))
WRITTEN = text.write(SHARE).decode()


def checked(line: str) -> str:
    """A line with the check that it needs."""
    label, _, value = line.partition(" ")
    return f"{line} {hashlib.sha256(f'{label} {value}'.encode()).hexdigest()[:4]}"


def with_line(label: str, line: str) -> bytes:
    """The text with another line in place of the one of that label."""
    changed, count = re.subn(rf"^{label} .*$", line, WRITTEN, flags=re.MULTILINE)
    assert count == 1
    return changed.encode()


def test_what_is_written_is_read() -> None:
    assert text.is_share(WRITTEN.encode())
    assert text.parse(WRITTEN.encode()) == SHARE
    assert max(map(len, WRITTEN.splitlines())) <= 90
    assert WRITTEN.isascii()


def test_the_example() -> None:
    assert f"```\n{WRITTEN}```" in SPEC


def test_as_people_type_it() -> None:
    lines = [line for line in WRITTEN.splitlines() if not line.startswith("#")]
    typed = [
        lines[0] + "  ",
        *(line.upper().replace(" ", "  ") if line[0] in "123456" else line for line in reversed(lines[1:])),
        "",
    ]
    assert text.parse("\r\n".join(typed).encode()) == SHARE
    run_together = re.sub(r"(?m)^(\d) +(\w{4}) (\w{4}) (\w{4}) (\w{4})", r"\1 \2\3\4\5", WRITTEN)
    assert run_together != WRITTEN
    assert text.parse(run_together.encode()) == SHARE


WRONG = [
    (b"", "not a share"),
    (b"ioflt provider\n", "not a share"),
    ("ioflt provider share 1\nüber\n".encode(), "not a share"),
    (WRITTEN.replace("share 1\n", "share 2\n", 1).encode(), "unknown version"),
    (WRITTEN.encode() + b" " * 8192, "too large"),
    (with_line("set", ""), "missing line"),
    (with_line("6", ""), "missing line"),
    (with_line("set", "sets 5d3a90c1 0000"), "unknown line"),
    (with_line("7?set", checked("7 0000 0000 0000 0000")), "unknown line"),
    (WRITTEN.encode() + b"set 5d3a90c1 0000\n", "twice the same line"),
    (with_line("set", "set 5d3a90c1"), "incomplete line"),
    (with_line("set", "set"), "incomplete line"),
    (with_line("set", "set 5d3a90c2 " + checked("set 5d3a90c1")[-4:]), "mistyped line"),
    (with_line("2", WRITTEN.split("\n3 ")[1].split("\n")[0].join(["2 ", ""])), "mistyped line"),
    (with_line("provider", checked("provider ../x")), "bad field"),
    (with_line("uuid", checked(f"uuid {UUID.upper()}")), "bad field"),
    (with_line("opens-by", checked("opens-by nobody")), "bad field"),
    (with_line("share", checked("share 0/5")), "bad field"),
    (with_line("share", checked("share 6/5")), "bad field"),
    (with_line("share", checked("share 2/65")), "bad field"),
    (with_line("share", checked("share 2")), "bad field"),
    (with_line("needs", checked("needs 1")), "bad field"),
    (with_line("needs", checked("needs 6")), "bad field"),
    (with_line("needs", checked("needs 03")), "bad field"),
    (with_line("1", checked("1 0001 0203 0405 06")), "bad field"),
    (with_line("1", checked("1 0001 0203 0405 060g")), "bad field"),
]


@pytest.mark.parametrize(("data", "reason"), WRONG)
def test_a_wrong_text(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptDataError) as caught:
        text.parse(data)
    assert caught.value.reason == reason
    assert isinstance(caught.value, UnsupportedError) == (reason == "unknown version")


@given(st.data())
def test_a_changed_digit_is_noticed(data: st.DataObject) -> None:
    places = [match.start() for match in re.finditer(r"(?<=[0-9a-f])[0-9a-f](?=[0-9a-f])", WRITTEN)]
    places = [place for place in places if not WRITTEN[: place + 1].rpartition("\n")[2].startswith("#")]
    at = data.draw(st.sampled_from(places))
    other = data.draw(st.sampled_from([digit for digit in "0123456789abcdef" if digit != WRITTEN[at]]))
    changed = f"{WRITTEN[:at]}{other}{WRITTEN[at + 1 :]}"
    try:
        read = text.parse(changed.encode())
    except CorruptDataError:
        return
    assert read == SHARE  # in the prose


@given(st.binary(max_size=200))
def test_any_bytes(noise: bytes) -> None:
    with pytest.raises(CorruptDataError):
        text.parse(b"ioflt provider share 1\n" + noise)
