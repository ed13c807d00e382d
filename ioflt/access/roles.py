"""Roles: named sets of privileges. The built-in ones are here, others are in the state."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ioflt.access.privileges import CRYPTOGRAPHER, KEY_ADMINISTRATION, Privilege
from ioflt.errors import UsageError

_ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")


@dataclass(frozen=True, slots=True)
class Role:
    """`id` is what one types, `shown` what tables show. Every role has System.Read, as in vSphere."""

    id: str
    shown: str
    privileges: frozenset[Privilege]

    def __post_init__(self) -> None:
        if _ID.fullmatch(self.id) is None:
            raise UsageError(f"not a name of a role (a-z 0-9 . - and at most 63): {ascii(self.id)[:80]}")
        if Privilege.READ not in self.privileges:
            raise UsageError(f"a role without {Privilege.READ}")

    def __str__(self) -> str:
        return self.id


def custom(role_id: str, privileges: Iterable[Privilege]) -> Role:
    """A role that someone made. Raises UsageError for a name that is none."""
    return Role(role_id, role_id, frozenset({Privilege.READ, *privileges}))


def spelled(text: str) -> str:
    """The id that someone typed, who may write capitals, and blanks or underscores for hyphens."""
    return re.sub(r"[\s_]+", "-", text.strip().casefold())


ADMINISTRATOR: Final = Role("administrator", "Administrator", frozenset(Privilege))

# Beside Cryptographer.* what else would be a way to plaintext or keys (vSphere's role lacks it, too).
NO_CRYPTOGRAPHY: Final = Role(
    "no-crypto-admin",
    "No cryptography administrator",
    frozenset(Privilege) - CRYPTOGRAPHER - {Privilege.DIAGNOSTICS},
)

READ_ONLY: Final = Role("read-only", "Read-only", frozenset({Privilege.READ, Privilege.VIEW_POLICY}))

BACKUP_OPERATOR: Final = Role(
    "backup-operator",
    "Backup operator",
    frozenset(
        {
            Privilege.READ,
            Privilege.VIEW_POLICY,
            Privilege.ACCESS,
            Privilege.CHANGE_TRACKING,
            Privilege.BACKUP,
        }
    ),
)

KEY_ADMINISTRATOR: Final = Role(
    "key-administrator",
    "Key administrator",
    KEY_ADMINISTRATION | {Privilege.READ, Privilege.VIEW_POLICY, Privilege.READ_KEY_SERVERS},
)

#: In the order in which they are shown.
BUILT_IN: Final = (ADMINISTRATOR, NO_CRYPTOGRAPHY, READ_ONLY, BACKUP_OPERATOR, KEY_ADMINISTRATOR)

#: Their other spellings: what tables show, and vSphere's own names.
OTHER_SPELLINGS: Final = {spelled(role.shown): role for role in BUILT_IN} | {
    "admin": ADMINISTRATOR,
    "nocryptoadmin": NO_CRYPTOGRAPHY,
    "readonly": READ_ONLY,
}
