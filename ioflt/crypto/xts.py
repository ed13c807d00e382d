"""The sector cipher: AES-256-XTS (IEEE 1619, NIST SP 800-38E) over 4096-byte sectors, in place.

Sector *n* of a file's body has the tweak 8·n, 128-bit little endian: what cryptsetup calls `aes-xts-plain64`
with sector size 4096 (its tweak counts 512-byte units). SPEC.md has a worked example.

`SectorCipher` is the C loop of `_sectors_src.c` when that was built, and else `PythonSectorCipher`, its twin.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from enum import IntEnum

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS

from ioflt.crypto.secret import Secret
from ioflt.errors import BugError, UsageError
from ioflt.types import SECTOR_SIZE

try:
    from ioflt.crypto import _sectors
except ImportError:
    _sectors = None  # type: ignore[assignment]  # there is no type for a missing module

#: Whether `SectorCipher` is the C loop.
NATIVE = _sectors is not None

_KEY = 64
_UNIT = 512
_UNITS = SECTOR_SIZE // _UNIT
_MAX_SECTORS = 2**64 // _UNITS  # the tweak of plain64 has 64 bits

Buffer = bytearray | memoryview


class _Do(IntEnum):
    ENCRYPT = 0
    DECRYPT = 1
    DECRYPT_THIN = 2


class SectorLoop(ABC):
    """Encrypts and decrypts whole 4096-byte sectors in place. Threads may share one."""

    def __init__(self, key: Secret) -> None:
        """Takes a copy of the 64-byte `key`. Raises UsageError for another length or for equal halves."""
        _check_key(key, (_KEY,))
        self._key: Secret | None = Secret(key.view())

    def encrypt(self, buffer: Buffer, sector: int) -> None:
        """Encrypt `buffer` as the sectors from `sector` on. Raises BugError unless it holds whole sectors."""
        self._checked(buffer, sector, _Do.ENCRYPT)

    def decrypt(self, buffer: Buffer, sector: int, *, holes: bool) -> None:
        """Decrypt likewise. With `holes`, a sector of zeros was never written, and stays zeros."""
        self._checked(buffer, sector, _Do.DECRYPT_THIN if holes else _Do.DECRYPT)

    @property
    def key(self) -> memoryview | None:
        """The 64 bytes, no copy of them; None when wiped."""
        return None if self._key is None else self._key.view()

    def wipe(self) -> None:
        """Forget the key: calls that run now finish with it, later ones raise BugError."""
        self._key = None

    def _checked(self, buffer: Buffer, sector: int, do: _Do) -> None:
        data = _bytes_of(buffer, SECTOR_SIZE)
        if not 0 <= sector <= _MAX_SECTORS - len(data) // SECTOR_SIZE:
            raise BugError(f"sector {sector} is out of range")
        if self._key is None:
            raise BugError("a wiped sector cipher is used")
        self._run(self._key.view(), data, sector, do)

    @abstractmethod
    def _run(self, key: memoryview, data: memoryview, sector: int, do: _Do) -> None:
        """The loop. `key` keeps the key alive until the call is over."""


class PythonSectorCipher(SectorLoop):
    """The twin in Python, one `cryptography` call per sector: oracle of the tests, and fallback."""

    def _run(self, key: memoryview, data: memoryview, sector: int, do: _Do) -> None:
        never_written = bytes(SECTOR_SIZE)
        for start in range(0, len(data), SECTOR_SIZE):
            unit = data[start : start + SECTOR_SIZE]
            if not (do is _Do.DECRYPT_THIN and unit == never_written):
                xts_unit(key, unit, (sector + start // SECTOR_SIZE) * _UNITS, encrypt=do is _Do.ENCRYPT)


class NativeSectorCipher(SectorLoop):
    """The loop in C. The interpreter's lock is released while it runs.

    Measured on one core of an AMD EPYC with OpenSSL 3.0: 4 KiB in 3.5 µs (1.6 of them in C), 1 MiB in 205 µs,
    1 MiB of holes in 32 µs. The twin: 9 µs and 1.8 ms.
    """

    def _run(self, key: memoryview, data: memoryview, sector: int, do: _Do) -> None:
        buffer = _sectors.ffi.from_buffer(data, require_writable=True)
        count = len(data) // SECTOR_SIZE
        if not _sectors.lib.ioflt_sectors(_sectors.ffi.from_buffer(key), buffer, count, sector, do):
            raise BugError("OpenSSL refused AES-256-XTS")


def address_of_loop() -> int | None:
    """Where the loop in C is, for other C files: `_sectors_src.c` says how to call it. None: not built."""
    if _sectors is None:
        return None
    return int(_sectors.ffi.cast("uintptr_t", _sectors.ffi.addressof(_sectors.lib, "ioflt_sectors")))


SectorCipher: type[SectorLoop] = NativeSectorCipher if NATIVE else PythonSectorCipher

if not NATIVE:
    warnings.warn(
        "the C sector loop was not built: encryption works, at a fraction of the speed",
        RuntimeWarning,
        stacklevel=2,
    )


def xts_area_encrypt(key: Secret, buffer: Buffer, first_512_sector: int) -> None:
    """Encrypt an area of 512-byte sectors in place (LUKS2 keyslots): sector number = tweak.

    `key` has 32 bytes (AES-128) or 64 (AES-256). Raises UsageError for the key, BugError for the buffer.
    """
    _area(key, buffer, first_512_sector, encrypt=True)


def xts_area_decrypt(key: Secret, buffer: Buffer, first_512_sector: int) -> None:
    """The reverse of `xts_area_encrypt`."""
    _area(key, buffer, first_512_sector, encrypt=False)


def _area(key: Secret, buffer: Buffer, first: int, *, encrypt: bool) -> None:
    _check_key(key, (_KEY // 2, _KEY))
    data = _bytes_of(buffer, _UNIT)
    if not 0 <= first <= 2**64 - len(data) // _UNIT:
        raise BugError(f"512-byte sector {first} is out of range")
    for start in range(0, len(data), _UNIT):
        xts_unit(key.view(), data[start : start + _UNIT], first + start // _UNIT, encrypt=encrypt)


def xts_unit(key: memoryview, unit: memoryview, tweak: int, *, encrypt: bool) -> None:
    """One XTS data unit in place, of 16 bytes or more: the cipher that the loops in Python call."""
    cipher = Cipher(AES(key), XTS(tweak.to_bytes(16, "little")))
    context = cipher.encryptor() if encrypt else cipher.decryptor()
    context.update_into(unit, unit)


def _check_key(key: Secret, lengths: tuple[int, ...]) -> None:
    if len(key) not in lengths:
        raise UsageError(f"XTS key of {len(key)} bytes, not {' or '.join(map(str, lengths))}")
    half = len(key) // 2
    if Secret(key.view()[:half]) == Secret(key.view()[half:]):
        raise UsageError("XTS key with equal halves")


def _bytes_of(buffer: Buffer, unit: int) -> memoryview:
    data = memoryview(buffer)
    if data.readonly or data.format != "B" or data.ndim != 1 or not data.c_contiguous:
        raise BugError("the buffer is not a plain writable one")
    if len(data) % unit:
        raise BugError(f"buffer of {len(data)} bytes, not a multiple of {unit}")
    return data
