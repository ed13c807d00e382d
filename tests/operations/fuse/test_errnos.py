"""Every error has an errno, what is not known is EIO with its traceback in the log; nothing ends a mount."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator

import pyfuse3
import pytest
import trio

from ioflt import errors
from ioflt.fuse.errnos import errno_of, translated
from ioflt.fuse.operations import Operations
from tests.operations.fuse.client import ROOT, Client, fails

ERRNOS: dict[type[errors.IofltError], int] = {
    errors.IofltError: errno.EIO,
    errors.UsageError: errno.EINVAL,
    errors.DeniedError: errno.EACCES,
    errors.UnshownError: errno.EACCES,
    errors.NotFoundError: errno.ENOENT,
    errors.ChangesUnknownError: errno.ESTALE,
    errors.ExistsError: errno.EEXIST,
    errors.BusyError: errno.EBUSY,
    errors.ReadOnlyError: errno.EROFS,
    errors.CrossHomeError: errno.EXDEV,
    errors.KeyUnavailableError: errno.ENOKEY,
    errors.ProviderUnavailable: errno.ENOKEY,
    errors.KeyNotFound: errno.ENOKEY,
    errors.KeyNotUsable: errno.ENOKEY,
    errors.KeyCorrupt: errno.ENOKEY,
    errors.ProviderLocked: errno.ENOKEY,
    errors.CorruptDataError: errno.EUCLEAN,
    errors.MalformedError: errno.EUCLEAN,
    errors.UnsupportedError: errno.EUCLEAN,
    errors.AuthenticationError: errno.EUCLEAN,
    errors.IntegrityError: errno.EIO,
    errors.StorageError: errno.ENOSPC,
    errors.PeerError: errno.EIO,
    errors.BugError: errno.EIO,
}

#: What the caller did, not what is wrong with the datastore.
QUIET = {errors.UsageError, errors.NotFoundError, errors.ExistsError, errors.CrossHomeError}

#: What needs a developer: with a traceback.
BUGS = {errors.IofltError, errors.BugError}


def tree(top: type[errors.IofltError]) -> Iterator[type[errors.IofltError]]:
    yield top
    for kind in top.__subclasses__():
        yield from tree(kind)


def example(kind: type[errors.IofltError]) -> errors.IofltError:
    if issubclass(kind, errors.StorageError):
        return kind("it is so", errno.ENOSPC, file="vm/a")
    return kind("it is so", file="vm/a")


def test_the_table_is_total() -> None:
    assert {kind for kind in tree(errors.IofltError) if kind.__module__ == errors.__name__} == ERRNOS.keys()


@pytest.mark.allow_log("vm/a: it is so|a bug of ioflt")
@pytest.mark.parametrize("kind", ERRNOS, ids=lambda kind: kind.__name__)
def test_every_class_has_its_errno_and_one_line_in_the_log(
    kind: type[errors.IofltError], caplog: pytest.LogCaptureFixture
) -> None:
    assert errno_of(example(kind)) == ERRNOS[kind]
    assert len(caplog.records) == (kind not in QUIET)
    for record in caplog.records:
        assert "it is so" in caplog.text
        assert (record.exc_info is not None) == (kind in BUGS)


@pytest.mark.allow_log("the datastore's file system")
@pytest.mark.parametrize(
    ("number", "logged"),
    [
        (errno.ENOSPC, True),
        (errno.EIO, True),
        (errno.EDQUOT, True),
        (errno.ENOENT, False),
        (errno.EXDEV, False),
    ],
)
def test_errors_of_the_file_system_pass_through(
    number: int, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert errno_of(OSError(number, "it is so")) == number
    assert bool(caplog.records) == logged


@pytest.mark.allow_log("the datastore's file system")
def test_an_oserror_without_a_number() -> None:
    assert errno_of(OSError("nothing else")) == errno.EIO


@pytest.mark.allow_log("a bug of ioflt")
@pytest.mark.parametrize(
    "error", [ZeroDivisionError("by zero"), KeyError(7), AssertionError(), MemoryError()]
)
async def test_what_nobody_expects_is_eio_with_a_traceback(
    error: Exception, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    @translated
    async def handler(_: Operations) -> None:
        raise error

    with fails(errno.EIO):
        await handler(client.operations)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_an_answer_that_is_meant_so_and_a_cancellation_pass(client: Client) -> None:
    @translated
    async def answers(_: Operations) -> None:
        raise pyfuse3.FUSEError(errno.ENODATA)

    @translated
    async def waits(_: Operations) -> None:
        await trio.sleep_forever()

    with fails(errno.ENODATA):
        await answers(client.operations)
    with trio.move_on_after(0) as scope:
        await waits(client.operations)
    assert scope.cancelled_caught


@pytest.mark.allow_log("a bug of ioflt")
async def test_a_bug_in_a_handler_ends_no_mount(client: Client) -> None:
    with fails(errno.EIO):
        await client.operations.getattr(pyfuse3.InodeT(1 << 40), client.caller)
    with fails(errno.EIO):
        await client.read(1 << 40)
    assert sorted(await client.names(ROOT)) == [".", "..", "plain", "vm"]
