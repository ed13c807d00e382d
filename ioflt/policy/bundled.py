"""The policies that come with ioflt: a record without any other has one of them."""

from __future__ import annotations

from typing import Final

from ioflt.policy.model import StoragePolicy, encryption
from ioflt.types import HomeState

#: As in vSphere: name, id and description are VMware's (vmware/govmomi, pbm/simulator/profiles.go).
VM_ENCRYPTION: Final = StoragePolicy(
    "VM Encryption Policy",
    "4d5f673c-536f-11e6-beb8-9e71128cae77",
    "Sample storage policy for VMware's VM and virtual disk encryption",
    (encryption(),),
)

#: Its id is ours: vSphere has no policy of that name that is the same on each datastore.
DATASTORE_DEFAULT: Final = StoragePolicy(
    "Datastore Default",
    "5d1f6f0e-2a0c-4d3f-9f0e-6b1f3a7c9e21",
    "Whatever the datastore is: nothing encrypts",
)

BUNDLED: Final = (VM_ENCRYPTION, DATASTORE_DEFAULT)

#: The policy of what is so, and was given no other.
OF_STATE: Final = {HomeState.ENCRYPTED: VM_ENCRYPTION, HomeState.CLEAR: DATASTORE_DEFAULT}
