"""Since when a key is missing: from the first failure after the last time that it was given."""

from ioflt.errors import KeyNotFound, ProviderUnavailable
from ioflt.keyd import missing
from ioflt.types import KeyRef

A, B = KeyRef("p", "a"), KeyRef("p", "b")


def test_from_the_first_failure_until_it_is_given(monkeypatch):
    now = [100.9]
    monkeypatch.setattr(missing.time, "time", lambda: now[0])
    known = missing.MissingKeys()
    first, second = ProviderUnavailable("no answer"), KeyNotFound("gone")
    known.note(A, first)
    now[0] = 200
    known.note(A, second)
    known.note(B, first)
    assert known.get(A) == (100, second)
    assert known.get(B) == (200, first)
    known.note(A, None)
    assert known.get(A) is None
    known.note(A, None)
    now[0] = 300
    known.note(A, second)
    assert known.get(A) == (300, second)
    known.forget()
    assert (known.get(A), known.get(B)) == (None, None)


def test_there_is_an_end_to_them(monkeypatch):
    monkeypatch.setattr(missing, "CAPACITY", 2)
    known = missing.MissingKeys()
    for name in "abc":
        known.note(KeyRef("p", name), KeyNotFound("gone"))
    assert [known.get(KeyRef("p", name)) is None for name in "abc"] == [True, False, False]
