"""Errors that travel: each class of the allow-list arrives as itself, all others as PeerError."""

import msgspec
import pytest

from ioflt import errors
from ioflt.errors import BugError, CorruptDataError, IofltError, PeerError, StorageError
from ioflt.wire.failure import MAX_TEXT, Failure, of, rebuild


def travel(error):
    """What the other side raises."""
    return rebuild(msgspec.msgpack.decode(msgspec.msgpack.encode(of(error)), type=Failure))


def classes(top):
    yield top
    for child in top.__subclasses__():
        yield from classes(child)


def sample(cls):
    if issubclass(cls, CorruptDataError):
        return cls("bad magic", "at 17", file="/a/b")
    if issubclass(cls, StorageError):
        return cls("cannot write", 28, file="/a/b")
    return cls("it did not work", file="/a/b")


@pytest.mark.parametrize(
    "cls",
    [cls for cls in classes(IofltError) if cls.__module__ == errors.__name__],
    ids=lambda cls: cls.__name__,
)
def test_every_error_arrives(cls):
    arrived = travel(sample(cls))
    assert str(arrived) == str(sample(cls))
    wanted = PeerError if cls in (BugError, IofltError) else cls
    assert type(arrived) is wanted
    for name in ("reason", "detail", "errno", "file"):
        assert getattr(arrived, name, None) == getattr(sample(cls), name, None)


class TokenRefused(errors.ProviderUnavailable):
    """As a provider has it for itself."""


class Closed(PeerError):
    """As a transport has it."""


@pytest.mark.parametrize(("cls", "wanted"), [(TokenRefused, errors.ProviderUnavailable), (Closed, PeerError)])
def test_a_class_of_its_own_arrives_as_what_it_is_a_case_of(cls, wanted):
    arrived = travel(cls("it refuses the token"))
    assert (type(arrived), arrived.message) == (wanted, "it refuses the token")


@pytest.mark.parametrize("name", ["SystemExit", "OSError", "BugError", "Failure", ""])
def test_no_other_class_is_made(name):
    assert type(rebuild(Failure(name, "x"))) is PeerError


def test_texts_are_cut_and_bytes_that_are_no_text_are_shown():
    arrived = travel(PeerError("x" * 9000, file=b"/a/\xff".decode(errors="surrogateescape")))
    assert len(arrived.message) == MAX_TEXT
    assert arrived.file == "/a/\\xff"
