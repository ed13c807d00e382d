"""VDDK's names and numbers for our errors, so that tools made for VMware's library know what happened.

Numbers: open-vm-tools, `lib/include/vix.h`.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ioflt import errors

#: Numbers by name: all of disks and of cryptography, and what else is used here.
NUMBERS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "VIX_E_FAIL": 1,
        "VIX_E_INVALID_ARG": 3,
        "VIX_E_FILE_NOT_FOUND": 4,
        "VIX_E_NOT_SUPPORTED": 6,
        "VIX_E_FILE_ERROR": 7,
        "VIX_E_DISK_FULL": 8,
        "VIX_E_FILE_READ_ONLY": 11,
        "VIX_E_FILE_ALREADY_EXISTS": 12,
        "VIX_E_FILE_ALREADY_LOCKED": 15,
        "VIX_E_HOST_NOT_CONNECTED": 26,
        "VIX_E_HOST_USER_PERMISSIONS": 3014,
        "VIX_E_DISK_INVAL": 16000,
        "VIX_E_DISK_NOINIT": 16001,
        "VIX_E_DISK_NOIO": 16002,
        "VIX_E_DISK_PARTIALCHAIN": 16003,
        "VIX_E_DISK_NEEDSREPAIR": 16006,
        "VIX_E_DISK_OUTOFRANGE": 16007,
        "VIX_E_DISK_CID_MISMATCH": 16008,
        "VIX_E_DISK_CANTSHRINK": 16009,
        "VIX_E_DISK_PARTMISMATCH": 16010,
        "VIX_E_DISK_UNSUPPORTEDDISKVERSION": 16011,
        "VIX_E_DISK_OPENPARENT": 16012,
        "VIX_E_DISK_NOTSUPPORTED": 16013,
        "VIX_E_DISK_NEEDKEY": 16014,
        "VIX_E_DISK_NOKEYOVERRIDE": 16015,
        "VIX_E_DISK_NOTENCRYPTED": 16016,
        "VIX_E_DISK_NOKEY": 16017,
        "VIX_E_DISK_INVALIDPARTITIONTABLE": 16018,
        "VIX_E_DISK_NOTNORMAL": 16019,
        "VIX_E_DISK_NOTENCDESC": 16020,
        "VIX_E_DISK_NEEDVMFS": 16022,
        "VIX_E_DISK_RAWTOOBIG": 16024,
        "VIX_E_DISK_TOOMANYOPENFILES": 16027,
        "VIX_E_DISK_TOOMANYREDO": 16028,
        "VIX_E_DISK_RAWTOOSMALL": 16029,
        "VIX_E_DISK_INVALIDCHAIN": 16030,
        "VIX_E_DISK_INVALIDDISK": 16063,
        "VIX_E_DISK_CAPACITY_MISMATCH": 16067,
        "VIX_E_CRYPTO_UNKNOWN_ALGORITHM": 17000,
        "VIX_E_CRYPTO_BAD_BUFFER_SIZE": 17001,
        "VIX_E_CRYPTO_INVALID_OPERATION": 17002,
        "VIX_E_CRYPTO_RANDOM_DEVICE": 17003,
        "VIX_E_CRYPTO_NEED_PASSWORD": 17004,
        "VIX_E_CRYPTO_BAD_PASSWORD": 17005,
        "VIX_E_CRYPTO_NOT_IN_DICTIONARY": 17006,
        "VIX_E_CRYPTO_NO_CRYPTO": 17007,
        "VIX_E_CRYPTO_ERROR": 17008,
        "VIX_E_CRYPTO_BAD_FORMAT": 17009,
        "VIX_E_CRYPTO_LOCKED": 17010,
        "VIX_E_CRYPTO_EMPTY": 17011,
        "VIX_E_CRYPTO_KEYSAFE_LOCATOR": 17012,
    }
)

#: By the `reason` of a CorruptDataError.
_BY_REASON: Final[Mapping[str, str]] = {
    "CID mismatch": "VIX_E_DISK_CID_MISMATCH",
    "parents form a ring": "VIX_E_DISK_INVALIDCHAIN",
    "missing parent": "VIX_E_DISK_PARTIALCHAIN",
    "chain too long": "VIX_E_DISK_TOOMANYREDO",
    "capacity differs": "VIX_E_DISK_CAPACITY_MISMATCH",
    "marked corrupt": "VIX_E_DISK_NEEDSREPAIR",
    "marked dirty": "VIX_E_DISK_NEEDSREPAIR",
    "unknown version": "VIX_E_DISK_UNSUPPORTEDDISKVERSION",
    "no such file": "VIX_E_FILE_NOT_FOUND",
}

#: By the nearest class.
_BY_TYPE: Final[Mapping[type[BaseException], str]] = {
    errors.IofltError: "VIX_E_FAIL",
    errors.UsageError: "VIX_E_INVALID_ARG",
    errors.DeniedError: "VIX_E_HOST_USER_PERMISSIONS",
    errors.NotFoundError: "VIX_E_FILE_NOT_FOUND",
    errors.ExistsError: "VIX_E_FILE_ALREADY_EXISTS",
    errors.BusyError: "VIX_E_FILE_ALREADY_LOCKED",
    errors.ReadOnlyError: "VIX_E_FILE_READ_ONLY",
    errors.KeyUnavailableError: "VIX_E_DISK_NEEDKEY",
    errors.KeyNotFound: "VIX_E_DISK_NOKEY",
    errors.ProviderLocked: "VIX_E_CRYPTO_LOCKED",
    errors.MalformedError: "VIX_E_DISK_INVALIDDISK",
    errors.UnsupportedError: "VIX_E_DISK_NOTSUPPORTED",
    errors.AuthenticationError: "VIX_E_CRYPTO_ERROR",
    errors.StorageError: "VIX_E_FILE_ERROR",
    errors.PeerError: "VIX_E_HOST_NOT_CONNECTED",
    OSError: "VIX_E_FILE_ERROR",
}

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def number_of(error: BaseException) -> tuple[str, int] | None:
    """VDDK's name and number for the error; None for what VDDK would not tell of, as an interruption."""
    name = _name(error)
    return None if name is None else (name, NUMBERS[name])


def _name(error: BaseException) -> str | None:
    if isinstance(error, errors.IofltError) and error.vddk is not None:
        return error.vddk
    if isinstance(error, errors.CorruptDataError) and error.reason in _BY_REASON:
        return _BY_REASON[error.reason]
    if isinstance(error, errors.StorageError | OSError) and error.errno in _FULL:
        return "VIX_E_DISK_FULL"
    return next((_BY_TYPE[kind] for kind in type(error).__mro__ if kind in _BY_TYPE), None)
