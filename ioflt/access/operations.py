"""The table of operations: which privileges each asks for, on what, and whether it hands out data keys.

An operation is a command of `ioflt` by its words, or a part of one after a colon: an option, or what happens
in a mount. A part stands for the whole operation, with what the command asks for included. Cryptographer
privileges are asked for on encrypted VMs only. What asks for nothing, the modes of the files decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from ioflt.access.privileges import Privilege


class On(Enum):
    """On what a privilege is asked for. The value is what the table shows."""

    EVERYTHING = "everything"
    DATASTORE = "datastore"
    VM = "VM"
    TARGET = "target datastore"
    OBJECT = "the object"
    FOLDER = "folder"


@dataclass(frozen=True, slots=True)
class Need:
    privilege: Privilege
    on: On


@dataclass(frozen=True, slots=True)
class Operation:
    """`hands_out`: the process that asks gets data keys, and could keep them. `by_root`: whoever owns keyd
    does it (on a machine: root), and nobody by his role.
    """

    name: str
    needs: tuple[Need, ...]
    hands_out: bool
    by_root: bool


def _needs(on: On, *privileges: Privilege) -> tuple[Need, ...]:
    return tuple(Need(privilege, on) for privilege in privileges)


_P = Privilege

_FILES: Final[tuple[Need, ...]] = ()
_SEES_DATASTORE = _needs(On.DATASTORE, _P.READ)
_SEES_PROVIDERS = _needs(On.EVERYTHING, _P.READ_KEY_SERVERS)
_PROVIDERS = _needs(On.EVERYTHING, _P.MANAGE_KEY_SERVERS)
_KEYS = _needs(On.EVERYTHING, _P.MANAGE_KEYS)
# A key that somebody names may be another VM's.
_NAMED_KEY = _needs(On.EVERYTHING, _P.MANAGE_KEYS, _P.ACCESS)
_ROLES = _needs(On.EVERYTHING, _P.MODIFY_ROLES)
_SEES_POLICIES = _needs(On.EVERYTHING, _P.VIEW_POLICY)
_POLICIES = _needs(On.EVERYTHING, _P.UPDATE_POLICY)
_ENCRYPTION_POLICIES = _needs(On.EVERYTHING, _P.MANAGE_ENCRYPTION_POLICY)
_INHERITS = _needs(On.EVERYTHING, _P.MODIFY_PERMISSIONS)
# It takes the role administrator away, and gives its halves.
_ADMINISTRATOR = _needs(On.EVERYTHING, *_P)
_GRANTS = _needs(On.OBJECT, _P.MODIFY_PERMISSIONS)
_PLAINTEXT = _needs(On.VM, _P.ACCESS)
_TRACKS = _needs(On.VM, _P.CHANGE_TRACKING) + _PLAINTEXT
_NEW_FILE = _needs(On.VM, _P.ACCESS, _P.ADD_DISK, _P.ENCRYPT_NEW)
_CREATES = _needs(On.DATASTORE, _P.CREATE_VM)
_CREATES_THERE = _needs(On.TARGET, _P.CREATE_VM)
_ENCRYPTED_THERE = _needs(On.TARGET, _P.CREATE_VM, _P.ENCRYPT_NEW)
_SIGNED_BACKUP = _needs(On.VM, _P.BACKUP)
_BACKS_UP = _SIGNED_BACKUP + _PLAINTEXT + _needs(On.TARGET, _P.CREATE_VM, _P.ENCRYPT_NEW, _P.ACCESS)
_CLONES = _needs(On.VM, _P.CLONE) + _ENCRYPTED_THERE
_MOVES = _needs(On.VM, _P.MOVE_VM, _P.MIGRATE) + _ENCRYPTED_THERE

# name, what it asks for
_WITHOUT_DATA_KEYS: Final = (
    ("datastore init", _needs(On.EVERYTHING, _P.REGISTER_HOST)),
    ("datastore recrypt", _needs(On.DATASTORE, _P.RECRYPT)),
    ("datastore recrypt: --key", _needs(On.DATASTORE, _P.RECRYPT) + _NAMED_KEY),
    ("datastore register", _needs(On.DATASTORE, _P.REGISTER_HOST)),
    ("datastore show", _FILES),
    ("mount", _FILES),
    ("mount: list, stat", _FILES),
    ("mount: rename, link or remove in a VM", _FILES),
    ("mount: rename a VM", _FILES),
    ("mount: rename a clear file of an encrypted VM", _PLAINTEXT),
    ("mount: rename a clear VM", _needs(On.VM, _P.MOVE_VM)),
    ("mount: remove a VM", _FILES),
    ("mount: make a clear VM", _CREATES),
    ("mount: read or write a clear VM", _FILES),
    ("umount", _FILES),
    ("inspect", _FILES),
    ("check", _FILES),
    ("vm list", _FILES),
    ("vm show", _FILES),
    ("health", _SEES_DATASTORE),
    ("events", _needs(On.EVERYTHING, _P.DIAGNOSTICS)),
    ("events: --folder", _needs(On.FOLDER, _P.DIAGNOSTICS)),
    ("attest", _needs(On.EVERYTHING, _P.DIAGNOSTICS)),
    ("events set", _needs(On.EVERYTHING, _P.MODIFY_ROLES)),
    ("events verify", _needs(On.EVERYTHING, _P.DIAGNOSTICS)),
    ("events verify: --folder", _needs(On.FOLDER, _P.DIAGNOSTICS)),
    ("vm mark", _KEYS),
    ("vm recrypt", _needs(On.VM, _P.RECRYPT)),
    ("vm recrypt: --key", _needs(On.VM, _P.RECRYPT) + _NAMED_KEY),
    ("recovery remove", _FILES),
    ("vm erase", _FILES),
    ("vm erase: --destroy-key", _KEYS),
    ("vm register", _needs(On.VM, _P.REGISTER_INVENTORY, _P.REGISTER_VM)),
    ("vm register: --clear", _needs(On.VM, _P.REGISTER_INVENTORY)),
    ("vm move: a clear VM to another datastore", _needs(On.VM, _P.MOVE_VM) + _CREATES_THERE),
    ("vm move: rename", _FILES),
    ("vm move: rename a clear VM", _needs(On.VM, _P.MOVE_VM)),
    ("vm import: a clear VM", _CREATES),
    ("vm clone: a clear VM", _CREATES_THERE),
    ("vm export: a clear VM", _FILES),
    ("backup export: a clear VM", _FILES),
    ("backup hotadd: a clear VM", _FILES),
    ("disk extend: a clear VM", _FILES),
    ("cbt disable: a clear VM", _FILES),
    ("cbt enable: a clear VM", _FILES),
    ("cbt query: a clear VM", _FILES),
    ("policy assign", _needs(On.VM, _P.UPDATE_POLICY)),
    ("policy assign: to a datastore", _needs(On.DATASTORE, _P.UPDATE_POLICY)),
    (
        "policy assign: to a datastore, which encrypts then",
        _needs(On.DATASTORE, _P.UPDATE_POLICY, _P.ENCRYPT),
    ),
    (
        "policy assign: to a datastore, which is clear then",
        _needs(On.DATASTORE, _P.UPDATE_POLICY, _P.DECRYPT),
    ),
    ("policy check", _FILES),
    ("policy clone", _POLICIES),
    ("policy clone: one that encrypts", _POLICIES + _ENCRYPTION_POLICIES),
    ("policy create", _POLICIES),
    ("policy create: one that encrypts", _POLICIES + _ENCRYPTION_POLICIES),
    ("policy list", _SEES_POLICIES),
    ("policy remove", _POLICIES),
    ("policy remove: one that encrypts", _POLICIES + _ENCRYPTION_POLICIES),
    ("policy show", _SEES_POLICIES),
    ("provider backup", _KEYS),
    ("provider cache", _PROVIDERS),
    ("provider create kmip", _PROVIDERS),
    ("provider create native", _PROVIDERS),
    ("provider create pkcs11", _PROVIDERS),
    ("provider create transit", _PROVIDERS),
    ("provider default", _PROVIDERS),
    ("provider list", _FILES),
    ("provider passwd", _PROVIDERS),
    ("provider remove", _PROVIDERS),
    ("provider renew", _PROVIDERS),
    ("provider restore", _KEYS),
    ("provider slot add", _PROVIDERS),
    ("provider slot list", _SEES_PROVIDERS),
    ("provider slot remove", _PROVIDERS),
    ("provider split", _KEYS),
    ("provider test", _PROVIDERS),
    ("provider trust", _PROVIDERS),
    ("key add", _KEYS),
    ("key destroy", _KEYS),
    ("key drill", _FILES),
    ("key list", _SEES_DATASTORE),
    ("key locate", _SEES_PROVIDERS),
    ("key remove", _KEYS),
    ("key revoke", _KEYS),
    ("key status", _SEES_PROVIDERS),
    ("keyd lock", _KEYS),
    ("keyd start", _FILES),
    ("keyd status", _FILES),
    ("keyd stop", _KEYS),
    ("keyd unlock", _KEYS),
    ("role list", _FILES),
    ("role show", _FILES),
    ("role create", _ROLES),
    ("role clone", _ROLES),
    ("role remove", _ROLES),
    ("permission list", _FILES),
    ("permission explain", _FILES),
    ("permission grant", _GRANTS),
    ("permission revoke", _GRANTS),
    ("folder list", _FILES),
    ("folder show", _needs(On.OBJECT, _P.READ)),
    ("folder create", _ROLES),
    ("folder set", _ROLES),
    ("folder delete", _ROLES + _INHERITS),
    ("folder add", _INHERITS),
    ("folder remove", _INHERITS),
    ("service list", _FILES),
    ("service create", _ROLES),
    ("service remove", _ROLES),
    ("setup", _ADMINISTRATOR),
    ("backup run: --ciphertext", _SIGNED_BACKUP),
    ("backup restore: of ciphertext", _FILES),
    ("backup prune: of ciphertext", _SIGNED_BACKUP),
    ("backup replicate: of ciphertext", _FILES),
    ("backup exports", _FILES),
    ("backup mount", _FILES),
    ("completion", _FILES),
)

# To do these, a process must have the data keys of the files that it works on.
_WITH_DATA_KEYS: Final = (
    ("mount: read or write", _PLAINTEXT),
    ("mount: save a VMX", _PLAINTEXT),
    ("mount: rename to or from *.vmx", _NEW_FILE),
    ("mount: add a file", _NEW_FILE),
    ("mount: make an encrypted VM", _CREATES + _needs(On.DATASTORE, _P.ENCRYPT_NEW)),
    ("check: what needs a VM's key", _PLAINTEXT),
    ("vm encrypt", _needs(On.VM, _P.ENCRYPT)),
    ("vm decrypt", _needs(On.VM, _P.DECRYPT)),
    ("policy assign: encrypt", _needs(On.VM, _P.UPDATE_POLICY, _P.ENCRYPT)),
    ("policy assign: decrypt", _needs(On.VM, _P.UPDATE_POLICY, _P.DECRYPT)),
    ("vm recrypt: --deep", _needs(On.VM, _P.RECRYPT)),
    ("vm clone", _CLONES),
    ("vm clone: encrypt", _needs(On.VM, _P.ENCRYPT) + _CLONES),
    ("vm clone: decrypt", _needs(On.VM, _P.DECRYPT) + _CLONES),
    ("vm move", _MOVES),
    ("vm move: --key", _MOVES + _needs(On.VM, _P.RECRYPT) + _NAMED_KEY),
    ("vm import", _CREATES + _needs(On.DATASTORE, _P.ENCRYPT_NEW)),
    ("vm export", _PLAINTEXT),
    ("backup export", _PLAINTEXT),
    ("backup hotadd", _needs(On.VM, _P.ACCESS, _P.ADD_DISK)),
    ("disk extend", _needs(On.VM, _P.EXTEND_DISK) + _PLAINTEXT),
    ("cbt disable", _TRACKS),
    ("cbt enable", _TRACKS),
    ("cbt query", _PLAINTEXT),
    ("recovery add", _PLAINTEXT),
    ("recovery fill", _PLAINTEXT),
    ("header backup", _PLAINTEXT),
    ("header restore", _PLAINTEXT),
    ("vmx export", _PLAINTEXT),
    ("vmx import", _PLAINTEXT),
    ("backup run", _BACKS_UP),
    ("backup run: --clear", _SIGNED_BACKUP + _PLAINTEXT + _CREATES_THERE),
    ("backup list", _PLAINTEXT),
    ("backup show", _PLAINTEXT),
    ("backup verify", _PLAINTEXT),
    ("backup prune", _needs(On.VM, _P.BACKUP, _P.ACCESS, _P.ENCRYPT_NEW)),
    ("backup replicate", _PLAINTEXT + _ENCRYPTED_THERE),
    ("backup restore", _PLAINTEXT + _ENCRYPTED_THERE),
    ("backup restore: a clear VM", _PLAINTEXT + _CREATES_THERE),
)

#: What no request to keyd does: it makes or ends what serves others, or takes the key providers' files, as it
#: is about a module or device of the host, or a key itself leaves or comes.
_BY_ROOT: Final = frozenset(
    {
        "backup export",
        "backup export: a clear VM",
        "backup hotadd",
        "backup hotadd: a clear VM",
        "mount",
        "umount",
        "backup mount",
        "keyd start",
        "provider create pkcs11",
        "provider restore",
        "provider slot add",
        "provider slot list",
        "provider slot remove",
        "provider split",
    }
)

#: Every operation by its name.
OPERATIONS: Final[Mapping[str, Operation]] = {
    name: Operation(name, needs, hands_out, name in _BY_ROOT)
    for table, hands_out in ((_WITHOUT_DATA_KEYS, False), (_WITH_DATA_KEYS, True))
    for name, needs in table
}


def base(operation: str) -> str:
    """The command that an operation is, or is a part of."""
    return operation.partition(":")[0]
