"""Shamir's secret sharing over GF(2^128), by PyCryptodome: k of n shares give the secret, fewer say nothing.

It shares blocks of 16 bytes; a longer secret is shared block by block. A wrong share gives a wrong secret,
and nothing here notices: the secret must carry its own proof.
"""

from __future__ import annotations

from collections.abc import Mapping

from Crypto.Protocol.SecretSharing import Shamir

from ioflt.crypto.secret import Secret
from ioflt.errors import BugError

#: Bytes of a block.
BLOCK = 16


def split(secret: Secret, threshold: int, shares: int) -> dict[int, Secret]:
    """Shares 1 to `shares`, each as long as the secret, of which any `threshold` give it back."""
    if len(secret) % BLOCK or not 2 <= threshold <= shares:
        raise BugError(f"{threshold} of {shares} shares of {len(secret)} bytes")
    made = {index: Secret.allocate(len(secret)) for index in range(1, shares + 1)}
    for start in range(0, len(secret), BLOCK):
        block = bytes(secret.view()[start : start + BLOCK])
        for index, share in Shamir.split(threshold, shares, block):
            made[index].buffer()[start : start + BLOCK] = share
    return made


def combine(shares: Mapping[int, Secret]) -> Secret:
    """The secret of exactly as many shares as it was split for; of others some other bytes."""
    (length,) = {len(share) for share in shares.values()}
    secret = Secret.allocate(length)
    for start in range(0, length, BLOCK):
        blocks = [(index, bytes(share.view()[start : start + BLOCK])) for index, share in shares.items()]
        secret.buffer()[start : start + BLOCK] = Shamir.combine(blocks)
    return secret
