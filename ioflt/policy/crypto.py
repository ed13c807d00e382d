"""What a policy makes of a VM that is copied, moved, brought in or brought back: vSphere's default table.

| the VM was | the policy encrypts | the policy does not |
|---|---|---|
| clear | Encrypt | NoOp |
| encrypted | NoOp | Decrypt |

(vmware-facts 4.2: what a missing `crypto` of a CryptoSpec means.) Recrypt never follows from a policy: it is
asked for.
"""

from __future__ import annotations

from enum import Enum

from ioflt.types import HomeState


class CryptoSpec(Enum):
    """vSphere's names, without their CryptoSpec."""

    ENCRYPT = "Encrypt"
    NO_OP = "NoOp"
    DECRYPT = "Decrypt"


def default_spec(source: HomeState, *, encrypts: bool) -> CryptoSpec:
    """What becomes of a VM of that state under a policy that encrypts, or does not."""
    if source is HomeState.ENCRYPTED:
        return CryptoSpec.NO_OP if encrypts else CryptoSpec.DECRYPT
    return CryptoSpec.ENCRYPT if encrypts else CryptoSpec.NO_OP


def after(source: HomeState, spec: CryptoSpec) -> HomeState:
    """The state of the VM once that is done."""
    match spec:
        case CryptoSpec.ENCRYPT:
            return HomeState.ENCRYPTED
        case CryptoSpec.DECRYPT:
            return HomeState.CLEAR
        case CryptoSpec.NO_OP:
            return source
