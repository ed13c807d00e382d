"""The dictionary dialect: lossless, case-insensitive, and only the line that was asked for changes."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ioflt.errors import MalformedError, UsageError
from ioflt.format import dictionary
from ioflt.format.dictionary import Dictionary

ODD = b"""#!/usr/bin/vmware\r
.encoding = "UTF-8"\r
config.version = 8
  DisplayName="we|22b|7C01"
annotation = "one|0D|0Atwo"
empty = ""
nothing =
broken = "a"b"
no equals sign
=
bare = some words here   \t
memsize = "512"
MEMSIZE = "1024"
\xff\xfe = "\xff"
last = "no newline\0"\0\0"""

KEYS = st.from_regex(r"[a-z.]{1,8}[0-9]?(:[0-9])?", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(st.binary(max_size=300))
@example(ODD)
@example(b"")
@example(b"a=1")
@example(b'a="1"\r\n\0\0\0')
def test_bytes_come_back(data: bytes) -> None:
    assert bytes(dictionary.parse(data)) == data


@given(st.lists(st.sampled_from(ODD.splitlines(keepends=True))).map(b"".join), KEYS, VALUES)
def test_set_and_remove_touch_one_key(data: bytes, key: str, value: str) -> None:
    before = dictionary.parse(data)
    after = before.set(key, value)
    again = dictionary.parse(bytes(after))
    if key != ".encoding":
        assert again[key.upper()] == value
        assert {k: v for k, v in again.items() if k.lower() != key} == {
            k: v for k, v in before.items() if k.lower() != key
        }
    if key not in before:
        assert dict(again.remove(key)) == dict(before)


def test_values() -> None:
    lines = dictionary.parse(ODD)
    assert lines["config.version"] == "8"
    assert lines["displayname"] == 'we"b|01'
    assert lines["ANNOTATION"] == "one\r\ntwo"
    assert lines["empty"] == lines["nothing"] == ""
    assert lines["bare"] == "some words here"
    assert lines["MemSize"] == "1024"
    assert "broken" not in lines
    assert "no equals sign" not in lines
    assert "absent" not in lines
    assert lines["\udcff\udcfe"] == "\udcff"


def test_set_keeps_spelling_and_line_end() -> None:
    text = b'A.b = "1"\r\nC = 2\n'
    assert bytes(dictionary.parse(text).set("a.B", "3")) == b'A.b = "3"\r\nC = 2\n'
    assert bytes(dictionary.parse(text).set("c", '"')) == b'A.b = "1"\r\nC = "|22"\n'
    assert bytes(dictionary.parse(text).set("d", "4")) == b'A.b = "1"\r\nC = 2\nd = "4"\r\n'


def test_a_new_line_ends_the_one_before_and_stays_before_nuls() -> None:
    assert bytes(dictionary.parse(b"a = 1").set("b", "2")) == b'a = 1\nb = "2"\n'
    assert bytes(dictionary.parse(b"a = 1\n\0\0").set("b", "2")) == b'a = 1\nb = "2"\n\0\0'
    assert bytes(Dictionary(()).set("b", "2")) == b'b = "2"\n'


def test_remove_takes_every_line_of_the_key() -> None:
    lines = dictionary.parse(b"a=1\n# a=2\nA=3\nb=4\n")
    assert bytes(lines.remove("a")) == b"# a=2\nb=4\n"
    assert lines.remove("c") is lines


@pytest.mark.parametrize(
    ("name", "codec"), [("windows-1252", "cp1252"), ("Shift_JIS", "shift_jis"), ("GB18030", "gb18030")]
)
def test_encoding(name: str, codec: str) -> None:
    # in Shift_JIS and GB18030 the second byte of some characters is that of "|"
    word = "é" if codec == "cp1252" else "ポ"
    text = f'.encoding = "{name}"\nname = "{word}"\n'.encode(codec)
    lines = dictionary.parse(text)
    assert lines["name"] == word
    assert bytes(lines.set("name", word + "|")) == text[:-2] + b'|7C"\n'


def test_unknown_encoding_is_utf8_with_stray_bytes() -> None:
    text = b'.encoding = "rot13"\nname = "\xc3\xa9\xff"\n'
    assert dictionary.parse(text)["name"] == "é\udcff"
    assert bytes(dictionary.parse(text).set("name", "é\udcff")) == text


def test_text_that_cannot_be_written() -> None:
    with pytest.raises(UsageError, match="cp1252"):
        dictionary.parse(b'.encoding = "windows-1252"\n').set("name", "ポ")
    for key in ("", "a b", 'a"', "#a", "a=b", "a|b", "a\0"):
        with pytest.raises(UsageError):
            Dictionary(()).set(key, "1")


def test_size_limit() -> None:
    with pytest.raises(MalformedError) as caught:
        dictionary.parse(bytes((1 << 20) + 1))
    assert caught.value.reason == "too large"
    assert dictionary.parse(bytes(1 << 20)).lines[0].key is None


@pytest.mark.parametrize(
    "data",
    [
        b" " * (1 << 20),
        b"a=b" + b" " * 1000000 + b'"',
        b"a=" + b"\t" * 1000000 + b'"',
        b"a" * (1 << 20),
        b'a="' * 300000,
    ],
    ids=["blanks", "bare", "tabs", "key", "quotes"],
)
def test_hostile_lines_take_linear_time(data: bytes) -> None:
    start = time.process_time()
    assert bytes(dictionary.parse(data)) == data
    assert time.process_time() - start < 2


def test_repr_shows_no_values() -> None:
    assert "sesame" not in repr(dictionary.parse(b'dataFileKey = "sesame"'))
