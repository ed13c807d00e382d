"""A storage policy, and what makes one a policy that says nothing against itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from ioflt.errors import UsageError
from ioflt.types import MAX_PROVIDER_NAME

#: The encryption filter, by the name that vSphere has for it; and the one that tracks changed blocks.
ENCRYPTION: Final = "vmwarevmcrypt@ENCRYPTION"
CBT: Final = "ioflt@CBT"

#: Of the encryption filter, "True" or "False": whether filters above it may see clear text.
CLEARTEXT_FILTERS: Final = "AllowCleartextFilters"

#: The filters that a policy may have, and the properties of each.
FILTERS: Final = {ENCRYPTION: (CLEARTEXT_FILTERS,), CBT: ()}

#: Longest name, as in a record, and longest description, in characters.
MAX_NAME: Final = 128
MAX_DESCRIPTION: Final = 1024

#: How the space of new files is had: reserved and filled at once, or as it is needed.
Provisioning = Literal["thick", "thin"]


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of the chain. Values of properties are text, as in vSphere: "True", "False"."""

    id: str
    properties: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class StoragePolicy:
    """`filters` from the guest down to the storage. With the encryption filter a VM is encrypted, else clear.

    `provider`: whose keys (None: those of the datastore's provider). `provisioning` of new files (None: not
    said). `integrity`: changed ciphertext is found. `recovery_slot`: each file opens by a recovery
    passphrase, too. All four are about encrypted VMs.
    """

    name: str
    id: str
    description: str = ""
    filters: tuple[Filter, ...] = ()
    provider: str | None = None
    provisioning: Provisioning | None = None
    integrity: bool = False
    recovery_slot: bool = False

    @property
    def encrypts(self) -> bool:
        """Whether a VM that has this policy is encrypted."""
        return self.has(ENCRYPTION)

    @property
    def allows_cleartext_filters(self) -> bool:
        """Whether filters above the encryption may see clear text."""
        found = [dict(one.properties) for one in self.filters if one.id == ENCRYPTION]
        return bool(found) and found[0][CLEARTEXT_FILTERS] == "True"

    def has(self, filter_id: str) -> bool:
        """Whether that filter is in its chain."""
        return any(one.id == filter_id for one in self.filters)


def encryption(*, cleartext_filters: bool = False) -> Filter:
    """The encryption filter."""
    return Filter(ENCRYPTION, ((CLEARTEXT_FILTERS, str(cleartext_filters)),))


def check(policy: StoragePolicy) -> StoragePolicy:
    """The policy. Raises UsageError for one that nobody could keep to."""
    name = policy.name
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable() or name.strip() != name:
        raise UsageError(f"a policy's name has 1 to {MAX_NAME} printable characters, no blank around them")
    if len(policy.description) > MAX_DESCRIPTION or not policy.description.isprintable():
        raise UsageError(f"a description has at most {MAX_DESCRIPTION} printable characters")
    provider = policy.provider
    if provider is not None and not (1 <= len(provider) <= MAX_PROVIDER_NAME and provider.isprintable()):
        raise UsageError("not the name of a key provider")
    _check_filters(policy)
    about_keys = policy.provider, policy.provisioning, policy.integrity or None, policy.recovery_slot or None
    if not policy.encrypts and any(asked is not None for asked in about_keys):
        raise UsageError("provider, provisioning, integrity and recovery slot need the encryption filter")
    return policy


def _check_filters(policy: StoragePolicy) -> None:
    ids = [one.id for one in policy.filters]
    if len(set(ids)) != len(ids):
        raise UsageError("a filter comes once in a policy")
    for one in policy.filters:
        if one.id not in FILTERS:
            raise UsageError(f"no filter {one.id[:80]}; there are {' and '.join(FILTERS)}")
        if tuple(name for name, _ in one.properties) != FILTERS[one.id]:
            raise UsageError(f"the filter {one.id} has the properties {', '.join(FILTERS[one.id]) or 'none'}")
        if any(value not in ("True", "False") for _, value in one.properties):
            raise UsageError("a property of a filter is True or False")
    if policy.encrypts and ids[0] != ENCRYPTION and not policy.allows_cleartext_filters:
        raise UsageError(f"{ids[0]} above the encryption sees clear text: that needs {CLEARTEXT_FILTERS}")
