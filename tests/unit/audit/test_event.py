"""Events: their one structured form, their limits, and the text in vSphere's shape."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.audit.event import (
    MAX_CHANGES,
    MAX_EVENT,
    MAX_NAME,
    MAX_TEXT,
    Actor,
    Change,
    Event,
    Thing,
    added,
    deleted,
    fitted,
    from_json,
    modified,
    shown,
    text,
    to_json,
)
from ioflt.errors import MalformedError, UsageError

TIME = datetime(2026, 3, 1, 12, 0, 0, 250, UTC)
ALICE = Actor("user:alice", 1000, 4242)
WEB01 = Thing("vm", "0f0e0d0c-0b0a-0908-0706-050403020100", "web01")
LONG = "\x01" * 9000
STORE = Thing("datastore", "11111111-2222-3333-4444-555555555555", "/srv/ds1")

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
changes = st.one_of(
    st.builds(modified, st.text(max_size=30), values, values),
    st.builds(added, st.text(max_size=30), values),
    st.builds(deleted, st.text(max_size=30), values),
)
things = st.builds(
    Thing, st.text(min_size=1, max_size=64), st.text(max_size=40), st.text(max_size=MAX_NAME // 8)
)
ids = st.integers(0, 2**32 - 1)
events = st.builds(
    Event,
    time=st.datetimes(timezones=st.just(UTC)),
    by=st.builds(
        Actor, st.text(max_size=20), ids, ids, st.text(max_size=20), st.none() | st.text(max_size=20)
    ),
    operation=st.text(min_size=1, max_size=64),
    object=st.none() | things,
    datastore=st.none() | things,
    changes=st.lists(changes, max_size=5).map(tuple),
    privilege=st.none() | st.text(max_size=40),
    outcome=st.sampled_from(["done", "denied", "failed", "refused"]),
    reason=st.none() | st.text(max_size=40),
    reported=st.booleans(),
    served_uid=st.none() | ids,
)


def event(**fields):
    return Event(**({"time": TIME, "by": ALICE, "operation": "vm encrypt"} | fields))


@given(events)
def test_an_event_comes_back_from_its_one_form(made):
    try:
        data = to_json(made)
    except UsageError:  # values nested deeper than they may be
        made = fitted(made)
        data = to_json(made)
    assert to_json(from_json(data)) == data
    assert b"\n" not in data


@given(st.binary(max_size=200) | events.map(lambda made: to_json(fitted(made))), st.data())
def test_bytes_are_an_event_in_its_one_form_or_malformed(data, choose):
    if data:
        at = choose.draw(st.integers(0, len(data) - 1))
        data = data[:at] + choose.draw(st.binary(max_size=3)) + data[at + 1 :]
    try:
        found = from_json(data)
    except MalformedError:
        return
    assert to_json(found) == data


@given(events)
def test_what_is_fitted_and_fits_stays(made):
    once = fitted(made)
    assert fitted(once) == once
    to_json(once)


@pytest.mark.parametrize(
    "made",
    [
        event(operation="x" * 500),
        event(reason=LONG, privilege=LONG, by=Actor(LONG, 1, 1, LONG, LONG), object=Thing(LONG, LONG, LONG)),
        event(datastore=Thing("k", LONG, LONG)),
        event(changes=tuple(modified(f"p{i}", "\x01" * MAX_TEXT, "y" * 9000) for i in range(500))),
        event(changes=(added("p", ["x" * MAX_TEXT] * 900),)),
        event(changes=(added("p", {"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}}),)),
        event(changes=(added("p", 2**80),)),
        event(object=Thing("vm", "", b"web\xff01".decode(errors="surrogateescape"))),
    ],
    ids=["operation", "texts", "datastore", "changes", "list", "depth", "number", "no text"],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_fitted_is_taken(made):
    with pytest.raises(UsageError):
        to_json(made)
    data = to_json(fitted(made))
    assert len(data) <= MAX_EVENT


def test_changes_that_are_left_out_are_counted():
    made = fitted(event(changes=tuple(added(f"p{i}", i) for i in range(MAX_CHANGES + 10))))
    assert len(made.changes) == MAX_CHANGES
    assert made.changes[-1] == added("changes not shown", 11)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b'{"time":"2026-03-01T12:00:00Z","by":{"who":"a","uid":1,"pid":1}}',
        b'{"time":"2026-03-01T12:00:00","by":{"who":"a","uid":1,"pid":1},"operation":"x"}',
        b'{"time":"2026-03-01T13:00:00+01:00","by":{"who":"a","uid":1,"pid":1},"operation":"x"}',
        b'{"time":"2026-03-01T12:00:00Z","by":{"who":"a","uid":-1,"pid":1},"operation":"x"}',
        b'{"time":"2026-03-01T12:00:00Z","by":{"who":"a","uid":1,"pid":1},"operation":"x","outcome":"maybe"}',
        b'{"time":"2026-03-01T12:00:00Z","by":{"who":"a","uid":1,"pid":1},"operation":"x","outcome":"done"}',
        b'{"time":"2026-03-01T12:00:00Z","by":{"who":"a","uid":1,"pid":1},"operation":"x","more":1}',
        b'{"time":"2026-03-01T12:00:00Z","by":{"who":"a","uid":1,"pid":1},"operation":"x","operation":"x"}',
        b'{"time":"2026-03-01T12:00:00Z","by":{"who":"a","uid":1,"pid":1},"operation":"x"} ',
        b'{"time":"2026-03-01T12:00:00Z","by":{"who":"a","uid":1,"pid":1},"operation":"x",'
        b'"changes":[{"kind":"added","path":"p","before":1}]}',
        b'{"time":"2026-03-01T12:00:00Z","by":{"who":"a","uid":1,"pid":1},"operation":"x",'
        b'"changes":[{"kind":"modified","path":"p","before":1.5}]}',
        b'{"time":"2026-03-01T12:00:00Z","by":{"who":"a","uid":1,"pid":1},"operation":"x",'
        b'"changes":[{"kind":"modified","path":"p","before":[[[[[1]]]]]}]}',
        b'{"time":"2026-03-01T12:00:00Z","by":{"who":"a","uid":1,"pid":1},"operation":"%s"}' % (b"x" * 70000),
        b"[" * 70000,
        b"[" * 60000,
    ],
)  # fmt: skip
def test_what_is_no_event_is_refused(data):
    with pytest.raises(MalformedError):
        from_json(data)


def test_the_text_has_the_shape_of_vspheres_event():
    """Of vmware-facts 10: a VM that a policy encrypts."""
    made = event(
        object=WEB01,
        datastore=STORE,
        changes=(
            modified("config.keyId", None, {"keyId": "k-17", "providerId": {"id": "KMS"}}),
            modified("config.hardware.device(2000).backing.iofilter", [], ["VMW_vmwarevmcrypt_1.0.0"]),
            added(
                'config.extraConfig("encryption.bundle")', {"key": "encryption.bundle", "value": "sha256 …"}
            ),
        ),
    )
    assert text(made, "host1") == (
        "Reconfigured web01 on host1 in /srv/ds1.\n"
        " \n"
        "Modified: \n"
        " \n"
        'config.keyId:<unset> -> (keyId = "k-17",providerId = (id = "KMS")); \n'
        "\n"
        'config.hardware.device(2000).backing.iofilter:() -> ("VMW_vmwarevmcrypt_1.0.0"); \n'
        "\n"
        " Added: \n"
        " \n"
        'config.extraConfig("encryption.bundle"):(key = "encryption.bundle",value = "sha256 …"); \n'
        "\n"
        " Deleted: \n"
        " \n"
    )


def test_what_is_no_reconfiguration_has_a_sentence_of_its_own():
    made = event(operation="vm decrypt", object=WEB01, datastore=STORE, outcome="denied", reason="no")
    assert text(made, "host1") == "vm decrypt web01 in /srv/ds1 on host1 by user:alice: denied: no."
    said = event(operation="vm export", object=WEB01, changes=(modified("config.x", 1, 2),), reported=True)
    assert text(said, "h").startswith("vm export web01 on h by user:alice: done.\n")
    acting = event(operation="open", by=Actor("user:root", 0, 1, as_principal="user:bob"), served_uid=1001)
    assert text(acting, "h") == "open on h by user:root as user:bob for uid 1001: done."


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, "<unset>"),
        (True, "true"),
        (False, "false"),
        (-3, "-3"),
        ("", '""'),
        ('a"b\\c\nd\u2028', '"a\\"b\\\\c\\nd\\u2028"'),
        ([], "()"),
        ({}, "()"),
        (["a", 1, None], '("a",1,<unset>)'),
        ({"a": {"b": "c"}, "d": [True]}, '(a = (b = "c"),d = (true))'),
    ],
)
def test_values(value, wanted):
    assert shown(value) == wanted


@given(events)
def test_no_text_of_an_event_makes_lines_of_its_own(made):
    lines = text(made, "host").split("\n")
    wanted = 1 + (10 + 2 * len(made.changes) if made.changes else 0)
    assert len(lines) <= wanted
    assert all(line.isprintable() for line in lines)


def test_a_change_says_its_kind():
    assert added("p", 1) == Change("added", "p", None, 1)
    assert deleted("p", 1) == Change("deleted", "p", 1, None)
