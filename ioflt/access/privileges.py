"""Privileges: VMware's ids of all that a rule of ours asks for."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from ioflt.errors import UsageError
from ioflt.spelling import meant


class Privilege(StrEnum):
    """One right. The value is its id, as vSphere spells it."""

    ACCESS = "Cryptographer.Access"
    ADD_DISK = "Cryptographer.AddDisk"
    CLONE = "Cryptographer.Clone"
    DECRYPT = "Cryptographer.Decrypt"
    ENCRYPT = "Cryptographer.Encrypt"
    ENCRYPT_NEW = "Cryptographer.EncryptNew"
    MANAGE_ENCRYPTION_POLICY = "Cryptographer.ManageEncryptionPolicy"
    MANAGE_KEY_SERVERS = "Cryptographer.ManageKeyServers"
    MANAGE_KEYS = "Cryptographer.ManageKeys"
    MIGRATE = "Cryptographer.Migrate"
    READ_KEY_SERVERS = "Cryptographer.ReadKeyServersInfo"
    RECRYPT = "Cryptographer.Recrypt"
    REGISTER_HOST = "Cryptographer.RegisterHost"
    REGISTER_VM = "Cryptographer.RegisterVM"
    MODIFY_PERMISSIONS = "Authorization.ModifyPermissions"
    MODIFY_ROLES = "Authorization.ModifyRoles"
    DIAGNOSTICS = "Global.Diagnostics"
    UPDATE_POLICY = "StorageProfile.Update"
    VIEW_POLICY = "StorageProfile.View"
    READ = "System.Read"
    CHANGE_TRACKING = "VirtualMachine.Config.ChangeTracking"
    EXTEND_DISK = "VirtualMachine.Config.DiskExtend"
    BACKUP = "VirtualMachine.Interact.Backup"
    CREATE_VM = "VirtualMachine.Inventory.Create"
    MOVE_VM = "VirtualMachine.Inventory.Move"
    REGISTER_INVENTORY = "VirtualMachine.Inventory.Register"


#: What each allows, in a few words.
MEANING: Final[Mapping[Privilege, str]] = {
    Privilege.ACCESS: "read and write the plaintext of an encrypted VM: mount, export, recovery",
    Privilege.ADD_DISK: "add files to an encrypted VM",
    Privilege.CLONE: "clone an encrypted VM",
    Privilege.DECRYPT: "decrypt a VM or disk",
    Privilege.ENCRYPT: "encrypt a VM or disk",
    Privilege.ENCRYPT_NEW: "make encrypted VMs and files",
    Privilege.MANAGE_ENCRYPTION_POLICY: "make and change storage policies that encrypt",
    Privilege.MANAGE_KEY_SERVERS: "set up key providers",
    Privilege.MANAGE_KEYS: "back up, remove, destroy and choose keys; lock and unlock",
    Privilege.MIGRATE: "move an encrypted VM to another datastore",
    Privilege.READ_KEY_SERVERS: "see the keys that keyd and key providers have, and their state",
    Privilege.RECRYPT: "give a VM or a datastore other keys",
    Privilege.REGISTER_HOST: "make a directory a datastore, and vouch for one",
    Privilege.REGISTER_VM: "register an encrypted VM",
    Privilege.MODIFY_PERMISSIONS: "grant and revoke, up to what one may do oneself",
    Privilege.MODIFY_ROLES: "make and remove roles, folders and services",
    Privilege.DIAGNOSTICS: "read the event log and reports made of it",
    Privilege.UPDATE_POLICY: "make, change and assign storage policies",
    Privilege.VIEW_POLICY: "see storage policies",
    Privilege.READ: "see the state of keys and what is given; part of every role",
    Privilege.CHANGE_TRACKING: "track the changed blocks of a disk, or no more",
    Privilege.EXTEND_DISK: "make a disk longer",
    Privilege.BACKUP: "have backups of a VM signed, and its writes wait for them",
    Privilege.CREATE_VM: "make a VM",
    Privilege.MOVE_VM: "rename a VM, and move it away",
    Privilege.REGISTER_INVENTORY: "register a VM, and vouch for one",
}

#: All that has to do with keys and ciphertext.
CRYPTOGRAPHER: Final = frozenset(each for each in Privilege if each.startswith("Cryptographer."))

#: The two duties that `Separate duties` keeps apart.
KEY_ADMINISTRATION: Final = frozenset(
    {
        Privilege.MANAGE_KEYS,
        Privilege.MANAGE_KEY_SERVERS,
        Privilege.MANAGE_ENCRYPTION_POLICY,
        Privilege.REGISTER_HOST,
    }
)
VM_CRYPTOGRAPHY: Final = frozenset(
    {
        Privilege.ACCESS,
        Privilege.ADD_DISK,
        Privilege.CLONE,
        Privilege.DECRYPT,
        Privilege.ENCRYPT,
        Privilege.ENCRYPT_NEW,
        Privilege.MIGRATE,
        Privilege.RECRYPT,
    }
)

_ALIASES: Final = {"cryptographer.directaccess": Privilege.ACCESS}
_SPELLED: Final = (*Privilege, "Cryptographer.DirectAccess")
_KNOWN: Final = {each.casefold(): each for each in Privilege} | _ALIASES


def parse(text: str) -> Privilege:
    """The privilege of that id, in any case. Raises UsageError with the nearest id for an unknown one."""
    found = _KNOWN.get(text.casefold())
    if found is not None:
        return found
    raise UsageError(f"no such privilege: {text}{meant(text, _SPELLED)}")
