"""The faults by name. Each is switched on by what causes it where it is real: so its error is the real one.

Some make keyd forget its keys, as a host does that starts anew: what is open goes on, what is opened then
meets the fault.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from ioflt.errors import UsageError
from ioflt.testing.testbed import guest
from ioflt.testing.testbed.bed import CLEAR, ROLE, SERVICE, Bed
from ioflt.testing.testbed.kms import Mode

_LBA: Final = 512

#: That of the guest's file system: no copy of the disk leaves it out.
_SUPERBLOCK: Final = 2050


@dataclass(frozen=True, slots=True)
class Fault:
    """`argument`: what its number is, and what it is if none is given."""

    name: str
    help: str
    on: Callable[[Bed, int], object]
    off: Callable[[Bed], object]
    argument: tuple[str, int] | None = None


def _server(name: str, mode: Mode, what: str) -> Fault:
    return Fault(
        name,
        f"{what} What is opened from now on fails: ENOKEY.",
        on=lambda bed, _: bed.serve(mode),
        off=lambda bed: bed.serve(Mode.NORMAL),
    )


def _bad_block(bed: Bed, lba: int) -> None:
    if not 0 <= lba < guest.SIZE // _LBA:
        raise UsageError(f"the disk has the blocks 0 to {guest.SIZE // _LBA - 1}")
    stored = os.stat(bed.datastore / guest.NAME / guest.EXTENT)
    bed.switch(bad=(stored.st_ino, lba * _LBA))


def _track_anew(bed: Bed, _number: int) -> None:
    bed.track(on=False)
    bed.track(on=True)


FAULTS: Final = {
    one.name: one
    for one in (
        _server("kms-down", Mode.DOWN, "The key server does not answer, and keyd has no keys any more."),
        _server("key-missing", Mode.EMPTY, "The key server answers that it has no such key."),
        _server("tls-wrong", Mode.IMPOSTOR, "The key server's certificate is by an authority not trusted."),
        Fault(
            "locked",
            "keyd is locked, files that are open included: ENOKEY.",
            on=lambda bed, _: bed.ioflt("keyd", "lock", "--force"),
            off=lambda bed: bed.ioflt("keyd", "unlock"),
        ),
        Fault(
            "privilege-missing",
            "The service has no permission any more. What is opened from now on fails: EACCES.",
            on=lambda bed, _: bed.ioflt("permission", "revoke", SERVICE, bed.datastore),
            off=lambda bed: bed.ioflt("permission", "grant", SERVICE, ROLE, bed.datastore),
        ),
        Fault(
            "eio-at-lba",
            f"A block of {guest.DISK} cannot be read nor written: EIO.",
            on=_bad_block,
            off=lambda bed: bed.switch(bad=(0, 0)),
            argument=("LBA", _SUPERBLOCK),
        ),
        Fault(
            "slow-disk",
            "Each read and write of the datastore takes longer.",
            on=lambda bed, delay: bed.switch(delay_ms=delay),
            off=lambda bed: bed.switch(delay_ms=0),
            argument=("MS", 20),
        ),
        Fault(
            "full-disk",
            "The datastore's file system has no room for anything written through the mount: ENOSPC.",
            on=lambda bed, _: bed.switch(full=True),
            off=lambda bed: bed.switch(full=False),
        ),
        Fault(
            "change-id-reset",
            f"{guest.DISK} is tracked anew: change ids from before are worth nothing, a full backup is due.",
            on=_track_anew,
            off=lambda _: None,
        ),
        Fault(
            "san-refused",
            f"{CLEAR} is encrypted: no more transport san, which reads the datastore itself.",
            on=lambda bed, _: bed.ioflt("vm", "encrypt", bed.datastore / CLEAR),
            off=lambda bed: bed.ioflt("vm", "decrypt", bed.datastore / CLEAR),
        ),
        Fault(
            "clear-proxy",
            "The proxy VM is not encrypted: no disk of an encrypted VM is plugged into it.",
            on=lambda bed, _: bed.convert_proxy("decrypt"),
            off=lambda bed: bed.convert_proxy("encrypt"),
        ),
    )
}


#: Of these one at a time: they are what the one server is.
_OF_SERVER: Final = frozenset({"kms-down", "key-missing", "tls-wrong"})


def switch_on(bed: Bed, name: str, number: int | None) -> None:
    """Raises UsageError for a number that it does not take, or where the scenario has no such thing."""
    fault = FAULTS[name]
    if fault.argument is None and number is not None:
        raise UsageError(f"the fault {name} takes no number")
    if number is None:
        number = 0 if fault.argument is None else fault.argument[1]
    fault.on(bed, number)
    ended = _OF_SERVER if name in _OF_SERVER else {name}
    others = {one: value for one, value in bed.state.faults.items() if one not in ended}
    bed.note(msgspec.structs.replace(bed.state, faults=others | {name: number}))


def switch_off(bed: Bed, name: str) -> None:
    """No error where it is off."""
    if name in bed.state.faults:
        FAULTS[name].off(bed)
        others = {one: value for one, value in bed.state.faults.items() if one != name}
        bed.note(msgspec.structs.replace(bed.state, faults=others))
