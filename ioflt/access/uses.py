"""What the process of an operation may have keyd do with the keys of a VM, or of a datastore: the privileges.

`operations` says what an operation asks for as a whole; keyd sees single requests, and which operation they
are for. Who declares another operation than his own gets what its privileges give, and no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ioflt.access.privileges import Privilege

_P = Privilege


@dataclass(frozen=True, slots=True)
class Uses:
    """Each is what the principal must have on whatever has the key; None: it is not done for this operation.

    `opens`: data keys that are in use are handed out, so that the process could keep them. `makes`: new ones
    are. `rewraps`: data keys come under other keys of the same owner, or are proved; nothing is handed out.
    Without any of it: data keys that the process made, and keys that it made.
    """

    opens: tuple[Privilege, ...] | None = None
    makes: tuple[Privilege, ...] | None = None
    rewraps: tuple[Privilege, ...] | None = None


def _all(privilege: Privilege) -> Uses:
    return Uses((privilege,), (privilege,), (privilege,))


_PLAINTEXT: Final = _all(_P.ACCESS)
_SHALLOW: Final = Uses(rewraps=(_P.RECRYPT,))

_USES: Final[Mapping[str, Uses]] = {
    "mount": Uses((_P.ACCESS,), (_P.ACCESS, _P.ADD_DISK, _P.ENCRYPT_NEW), (_P.ACCESS,)),
    "backup export": Uses(opens=(_P.ACCESS,)),
    "backup hotadd": Uses(opens=(_P.ACCESS, _P.ADD_DISK)),
    "check": Uses(opens=(_P.ACCESS,), rewraps=(_P.ACCESS,)),
    "datastore recrypt": _SHALLOW,
    "datastore recrypt: --key": _SHALLOW,
    "policy assign": Uses((_P.DECRYPT,), (_P.ENCRYPT,), (_P.ENCRYPT,)),
    "vm encrypt": Uses(makes=(_P.ENCRYPT,), rewraps=(_P.ENCRYPT,)),
    "vm decrypt": Uses(opens=(_P.DECRYPT,)),
    "vm recrypt": _SHALLOW,
    "vm recrypt: --key": _SHALLOW,
    "vm recrypt: --deep": _all(_P.RECRYPT),
    "vm clone": _all(_P.CLONE),
    "vm move": _all(_P.MIGRATE),
    "vm move: --key": _all(_P.MIGRATE),
    "vm register": Uses(rewraps=(_P.REGISTER_VM,)),
    "vm export": _PLAINTEXT,
    "disk extend": Uses((_P.EXTEND_DISK, _P.ACCESS)),
    "cbt disable": Uses((_P.CHANGE_TRACKING, _P.ACCESS)),
    "cbt enable": Uses((_P.CHANGE_TRACKING, _P.ACCESS)),
    "cbt query": _PLAINTEXT,
    "recovery add": _PLAINTEXT,
    "recovery fill": _PLAINTEXT,
    "header backup": _PLAINTEXT,
    "header restore": _PLAINTEXT,
    "vmx export": _PLAINTEXT,
    "vmx import": _PLAINTEXT,
    "backup run": Uses(opens=(_P.ACCESS,), makes=(_P.ENCRYPT_NEW,)),
    "backup run: --clear": Uses(opens=(_P.ACCESS,)),
    "backup list": Uses(opens=(_P.ACCESS,)),
    "backup show": Uses(opens=(_P.ACCESS,)),
    "backup verify": Uses(opens=(_P.ACCESS,)),
    "backup prune": Uses(opens=(_P.ACCESS,), makes=(_P.ENCRYPT_NEW,)),
    "backup replicate": Uses(opens=(_P.ACCESS,), makes=(_P.ENCRYPT_NEW,)),
    "backup restore": Uses(opens=(_P.ACCESS,), makes=(_P.ENCRYPT_NEW,)),
}

_NONE: Final = Uses()


def of(operation: str) -> Uses:
    """Those of an operation's name."""
    return _USES.get(operation, _NONE)
