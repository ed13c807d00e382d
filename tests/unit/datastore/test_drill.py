"""What would be locked: any one key opens, cached keys go on."""

import pytest

from ioflt.datastore import drill
from ioflt.datastore.drill import Locks
from ioflt.datastore.seen import Protected, Survey
from ioflt.types import KeyRef

A1, A2, B1 = KeyRef("a", "1"), KeyRef("a", "2"), KeyRef("b", "1")
FOUND = Survey(
    [
        Protected("ds", (A1,), is_datastore=True),
        Protected("ds/one", (A1,)),
        Protected("ds/two", (A2,)),
        Protected("ds/both", (A1, B1)),
        Protected("ds/same", (A1, A2)),
        Protected("ds/other", (B1,), also=(A1,)),
    ],
    [("gone", "why")],
)


@pytest.mark.parametrize(
    ("lost", "cached", "locked"),
    [
        (set(), set(), []),
        ({"a"}, set(), ["ds", "ds/one", "ds/two", "ds/same"]),
        ({"b"}, set(), ["ds/other"]),
        ({"a", "b"}, set(), ["ds", "ds/one", "ds/two", "ds/both", "ds/same", "ds/other"]),
        ({"a"}, {A1}, ["ds/two"]),
        ({"a"}, {A2, B1}, ["ds", "ds/one"]),
    ],
)
def test_what_is_locked(lost, cached, locked):
    found = drill.locked(FOUND, lambda key: key.provider in lost, cached)
    assert [one.path for one in found] == locked


@pytest.mark.parametrize(
    ("lost", "cached", "until"),
    [
        (set(), {A1: 5}, {}),
        ({"a"}, {}, {}),
        ({"a"}, {A1: 5}, {"ds": 5, "ds/one": 5, "ds/same": 5}),  # ds/both has a key that is not lost
        ({"a"}, {A1: 5, A2: 9}, {"ds": 5, "ds/one": 5, "ds/two": 9, "ds/same": 9}),
        ({"a"}, {A1: None, A2: 9}, {"ds": None, "ds/one": None, "ds/two": 9, "ds/same": None}),
        ({"a", "b"}, {B1: 5}, {"ds/both": 5, "ds/other": 5}),
    ],
)
def test_what_goes_on_by_cached_keys_only(lost, cached, until):
    found = drill.by_cache(FOUND, lambda key: key.provider in lost, cached)
    assert {one.path: end for one, end in found} == until


def test_what_locks_most_by_itself():
    assert drill.sole_keys(FOUND) == [(A1, Locks(1, 1)), (A2, Locks(1)), (B1, Locks(1))]
    assert drill.sole_providers(FOUND) == [("a", Locks(3, 1)), ("b", Locks(1))]
