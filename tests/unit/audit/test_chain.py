"""The chain: whatever is changed, removed, reordered or put in between shows; a torn end is told apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.audit.chain import MAX_LINE, Head, Line, Walk, follow, line_hash, parse_head
from ioflt.errors import MalformedError

START = Head(0, "ab" * 32)

logs = st.lists(st.text(max_size=8), min_size=1, max_size=8)


def log(texts, head=START):
    """The lines of a log, and all its heads."""
    lines, heads = [], [head]
    for text in texts:
        line, head = follow(head, b'{"t":"%s"}' % text.encode("unicode_escape").hex().encode())
        lines.append(line)
        heads.append(head)
    return lines, heads


def verify(lines, torn=b"", known=None):
    walk = Walk(known)
    found = [finding for line in lines for finding in walk.line(line)]
    return found + walk.end(torn), walk


def faults(*args, **kwargs):
    return [finding.fault for finding in verify(*args, **kwargs)[0]]


@given(logs)
def test_a_whole_log_has_no_findings(texts):
    lines, heads = log(texts)
    for known in (None, *heads):
        found, walk = verify(lines, known=known)
        assert found == []
        assert walk.head == heads[-1]
        assert walk.log_id == START.hash


@given(logs, st.data())
def test_a_changed_bit_shows_against_the_head(texts, choose):
    lines, heads = log(texts)
    which = choose.draw(st.integers(0, len(lines) - 1))
    bit = choose.draw(st.integers(0, len(lines[which]) * 8 - 1))
    changed = bytearray(lines[which])
    changed[bit // 8] ^= 1 << bit % 8
    lines[which] = bytes(changed)
    assert faults(lines, known=heads[-1])
    if which < len(lines) - 1 and which > 0:
        assert faults(lines)  # and in the middle without it


@given(logs, st.data())
def test_a_line_that_is_taken_out_shows(texts, choose):
    lines, heads = log(texts)
    which = choose.draw(st.integers(0, len(lines) - 1))
    del lines[which]
    assert faults(lines, known=heads[-1])
    if which < len(lines):
        assert "missing" in faults(lines)


@given(st.lists(st.text(max_size=4), min_size=2, max_size=8), st.data())
def test_lines_in_another_order_show(texts, choose):
    lines, _ = log(texts)
    order = choose.draw(st.permutations(range(len(lines))))
    if order != list(range(len(lines))):
        assert faults([lines[i] for i in order])


@given(logs, st.data())
def test_a_line_that_is_put_in_shows(texts, choose):
    lines, heads = log(texts)
    at = choose.draw(st.integers(0, len(lines) - 1))
    forged, _ = follow(heads[at], b'{"forged":1}')
    repeated = choose.draw(st.sampled_from([forged, lines[at], b"", b"{}"]))
    lines.insert(at, repeated)
    assert faults(lines)


def test_a_log_that_was_cut_shows_only_against_a_head():
    lines, heads = log("abcd")
    assert faults(lines[:2]) == []
    assert faults(lines[:2], known=heads[2]) == []
    assert faults(lines[:2], known=heads[4]) == ["not the head"]


def test_an_end_written_anew_shows_only_against_a_head():
    lines, heads = log("abcd")
    other, _ = log("xy", heads[2])
    assert faults(lines[:2] + other) == []
    assert faults(lines[:2] + other, known=heads[4]) == ["not the head"]
    assert faults(lines[:2] + other, known=heads[3]) == ["not the head"]


def test_another_hosts_log_shows_against_any_head():
    lines, _ = log("abcd", Head(0, "cd" * 32))
    assert faults(lines, known=START) == ["not the head"]


def test_a_torn_last_line_is_only_that():
    lines, heads = log("abc")
    found, walk = verify(lines[:2], torn=lines[2][:20])
    assert [(f.fault, f.sequence) for f in found] == [("cut short", 3)]
    assert walk.head == heads[2]


def test_findings_name_the_line():
    lines, _ = log("abcdef")
    lines[2] = lines[2].replace(b'"t":"', b'"t":"0')
    del lines[4]
    assert [(f.fault, f.sequence) for f in verify(lines)[0]] == [("changed", 3), ("missing", 5)]


@given(st.binary(max_size=120))
def test_bytes_are_a_line_or_malformed(data):
    try:
        line = Line.from_bytes(data)
    except MalformedError:
        return
    assert line.to_bytes() == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b'{"seq":0,"prev":"' + b"0" * 64 + b'","event":{}}',
        b'{"seq":1,"prev":"' + b"0" * 63 + b'","event":{}}',
        b'{"seq":1,"prev":"' + b"A" * 64 + b'","event":{}}',
        b'{"seq":1,"prev":"' + b"0" * 64 + b'\\n","event":{}}',
        b'{"seq":1,"prev":"' + b"0" * 64 + b'", "event":{}}',
        b'{"prev":"' + b"0" * 64 + b'","seq":1,"event":{}}',
        b'{"seq":1,"prev":"' + b"0" * 64 + b'","event":{},"event":{}}',
        b'{"seq":1,"prev":"' + b"0" * 64 + b'"}',
        b'{"seq":1,"prev":"' + b"0" * 64 + b'","event":"' + b"x" * MAX_LINE + b'"}',
    ],
)
def test_what_is_no_line_is_refused(data):
    with pytest.raises(MalformedError):
        Line.from_bytes(data)


def test_heads_as_text():
    head = Head(17, "0f" * 32)
    assert parse_head(str(head)) == head
    for bad in ("", "1", ":", "1:", "x:" + "0f" * 32, "1:" + "0F" * 32, "1:" + "0f" * 31, "²:" + "0f" * 32):
        with pytest.raises(MalformedError):
            parse_head(bad)


def test_the_worked_bytes_of_the_spec():
    event = (
        b'{"time":"2026-03-01T12:00:00Z","by":{"who":"user:alice","uid":1000,"pid":4242},'
        b'"operation":"key add"}'
    )
    line, head = follow(Head(0, "00" * 32), event)
    assert line == b'{"seq":1,"prev":"' + b"00" * 32 + b'","event":' + event + b"}"
    assert head == Head(1, line_hash(line))
    assert head.hash == "d8effe847d150ddc0f9c2993fee87dca3386c52c4dc28e3fa08a0081a1040916"
