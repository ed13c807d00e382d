"""Each of our errors has a name and number of VDDK's, the one that its tools look for."""

from __future__ import annotations

import errno
import inspect

import pytest

from ioflt import errors
from ioflt.backup.vddk import NUMBERS, number_of


@pytest.mark.parametrize(
    ("error", "name", "number"),
    [
        (errors.KeyNotFound("no such key"), "VIX_E_DISK_NOKEY", 16017),
        (errors.ProviderUnavailable("no answer"), "VIX_E_DISK_NEEDKEY", 16014),
        (errors.ProviderLocked("locked"), "VIX_E_CRYPTO_LOCKED", 17010),
        (errors.MalformedError("CID mismatch"), "VIX_E_DISK_CID_MISMATCH", 16008),
        (errors.MalformedError("parents form a ring"), "VIX_E_DISK_INVALIDCHAIN", 16030),
        (errors.MalformedError("bad magic"), "VIX_E_DISK_INVALIDDISK", 16063),
        (errors.IntegrityError("changed data"), "VIX_E_CRYPTO_ERROR", 17008),
        (errors.DeniedError("permission denied"), "VIX_E_HOST_USER_PERMISSIONS", 3014),
        (errors.StorageError("cannot write", errno.ENOSPC), "VIX_E_DISK_FULL", 8),
        (errors.StorageError("cannot read", errno.EIO), "VIX_E_FILE_ERROR", 7),
        (OSError(errno.EDQUOT, "quota"), "VIX_E_DISK_FULL", 8),
        (errors.BusyError("in use"), "VIX_E_FILE_ALREADY_LOCKED", 15),
        (errors.BugError("impossible"), "VIX_E_FAIL", 1),
    ],
    ids=lambda value: str(value),
)
def test_names_and_numbers(error: BaseException, name: str, number: int) -> None:
    assert number_of(error) == (name, number)


def test_every_error_of_ours_has_one() -> None:
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.StorageError):
            assert number_of(kind("x", errno.EIO))
        elif issubclass(kind, errors.IofltError):
            assert number_of(kind("x"))


def test_an_error_may_say_it_itself() -> None:
    error = errors.DeniedError("no")
    for name, number in NUMBERS.items():
        error.vddk = name
        assert number_of(error) == (name, number)


def test_what_vddk_would_not_tell_of() -> None:
    assert number_of(KeyboardInterrupt()) is None
    assert number_of(ValueError()) is None
