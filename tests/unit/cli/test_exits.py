"""Every failure has an exit code, and the manual names them all."""

from __future__ import annotations

import errno
import inspect
import signal

import click
import pytest

from ioflt import errors
from ioflt.cli import main
from ioflt.cli.exits import _BY_ERROR, Exit, exit_code

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.IofltError) and kind is not errors.IofltError
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_of_the_tree_has_a_code_of_its_own_branch(kind: type[errors.IofltError]) -> None:
    branch = next(parent for parent in kind.__mro__ if errors.IofltError in parent.__bases__)
    assert branch in _BY_ERROR
    error = kind("read", errno.EIO) if kind is errors.StorageError else kind("it happened")
    assert exit_code(error) == _BY_ERROR[branch] not in (Exit.OK, Exit.FAILURE)


def test_branches_do_not_share_codes() -> None:
    branches = [kind for kind in CLASSES if errors.IofltError in kind.__bases__]
    assert len({_BY_ERROR[kind] for kind in branches}) == len(branches)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("x"), Exit.BUG),
        (click.UsageError("x"), Exit.USAGE),
        (click.BadParameter("x"), Exit.USAGE),
        (click.FileError("x"), Exit.FAILURE),
        (click.Abort(), 128 + signal.SIGINT),
        (KeyboardInterrupt(), 128 + signal.SIGINT),
        (KeyboardInterrupt("SIGTERM"), 128 + signal.SIGTERM),
        (click.Abort("SIGHUP"), 128 + signal.SIGHUP),
        (BrokenPipeError(errno.EPIPE, "x"), 128 + signal.SIGPIPE),
        (FileNotFoundError(errno.ENOENT, "x"), Exit.NOT_FOUND),
        (PermissionError(errno.EACCES, "x"), Exit.DENIED),
        (OSError(errno.EROFS, "x"), Exit.READ_ONLY),
        (OSError(errno.EBUSY, "x"), Exit.BUSY),
        (OSError(errno.EIO, "x"), Exit.STORAGE),
        (errors.StorageError("write", errno.EROFS), Exit.READ_ONLY),
        (errors.StorageError("open", errno.EACCES), Exit.DENIED),
        (errors.StorageError("write", errno.ENOSPC), Exit.STORAGE),
    ],
)
def test_other_exceptions(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_the_manual_lists_every_code() -> None:
    listed = dict(main._MANUAL)["Exit codes"]
    assert all(str(code.value) in listed.split() for code in Exit)
