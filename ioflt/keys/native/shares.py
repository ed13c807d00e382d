"""A native provider's KDK in shares: any k of n bring it back, fewer say nothing of it.

What is shared is the KDK and a proof of it, so that a wrong combination is noticed, and fewer than k shares
have nothing to test a guess by.
"""

from __future__ import annotations

from collections.abc import Sequence

from ioflt.crypto import shamir
from ioflt.crypto.kdf import hkdf
from ioflt.crypto.rng import random_bytes
from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, UsageError
from ioflt.format.share.text import MAX_SHARES, SIZE, Share
from ioflt.keys.native.backup import Identity

_KDK = 32
_PROOF = SIZE - _KDK


def split(identity: Identity, kdk: Secret, threshold: int, count: int) -> list[Share]:
    """`count` shares, any `threshold` of which are enough. Raises UsageError unless 2 ≤ k ≤ n ≤ 64."""
    if not 2 <= threshold <= count <= MAX_SHARES:
        raise UsageError(
            f"{threshold} of {count} shares: at least 2, and not more than there are, at most 64"
        )
    set_id = random_bytes(4).hex()
    with _proof(identity, kdk, set_id, threshold, count) as proof, Secret.allocate(SIZE) as whole:
        whole.buffer()[:_KDK] = kdk.view()
        whole.buffer()[_KDK:] = proof.view()
        parts = shamir.split(whole, threshold, count)
    return [
        Share(
            identity.name,
            identity.uuid,
            identity.kdk_id,
            identity.protection,
            set_id,
            index,
            count,
            threshold,
            data,
        )
        for index, data in parts.items()
    ]


def combine(shares: Sequence[Share]) -> tuple[Identity, Secret]:
    """The provider and its KDK.

    Raises UsageError for too few, for one given twice and for shares of different splittings,
    AuthenticationError when they give no key: one of them is not what was written.
    """
    first = shares[0]
    _check_together(shares)
    if len(shares) < first.threshold:
        raise UsageError(f"too few shares: {len(shares)} given, {first.threshold} are needed")
    identity = Identity.checked(first.name, first.uuid, first.kdk_id, first.protection)
    used = {share.index: share.data for share in shares[: first.threshold]}
    with shamir.combine(used) as whole:
        kdk, given = Secret(whole.view()[:_KDK]), Secret(whole.view()[_KDK:])
        with given, _proof(identity, kdk, first.set_id, first.threshold, first.count) as proof:
            if given != proof:
                kdk.wipe()
                raise AuthenticationError("wrong share", "together they give no key; one is not as written")
    return identity, kdk


def _check_together(shares: Sequence[Share]) -> None:
    seen: set[int] = set()
    for share in shares:
        if _belongs_to(share) != _belongs_to(shares[0]):
            raise UsageError(
                f"mixed shares: number {shares[0].index} is of set {shares[0].set_id} of the provider"
                f" {shares[0].name}, number {share.index} of set {share.set_id} of {share.name}"
            )
        if share.index in seen:
            raise UsageError(f"share number {share.index} is given twice")
        seen.add(share.index)


def _belongs_to(share: Share) -> tuple[str | int, ...]:
    return (
        share.name,
        share.uuid,
        share.kdk_id,
        share.protection,
        share.set_id,
        share.threshold,
        share.count,
    )


def _proof(identity: Identity, kdk: Secret, set_id: str, threshold: int, count: int) -> Secret:
    """What only the KDK gives, for this splitting of this provider."""
    fields = (
        identity.name,
        identity.uuid,
        identity.kdk_id,
        identity.protection,
        set_id,
        str(threshold),
        str(count),
    )
    return hkdf(kdk, "share-proof", "\0".join(fields).encode(), _PROOF)
