"""Sealing 32 bytes to this host: by its TPM 2.0, else by systemd-creds.

A key file of ours is no way: it would lie beside what it opens, and be copied with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, BugError, KeyNotUsable, PeerError, ProviderUnavailable
from ioflt.keys.native import credentials, tpm
from ioflt.keys.sealed.file import CredentialSeal, Seal, TpmSeal


def to_this_host(provider: str, key: Secret) -> Seal:
    """`key`, for the provider with that uuid. What seals it was seen to open.

    Raises PeerError when this host has nothing that does.
    """
    refused = []
    for kind, means in (("TPM 2.0", _by_its_tpm), ("systemd-creds", to_systemd)):
        try:
            return _proven(provider, key, means(provider, key))
        except (ProviderUnavailable, KeyNotUsable, AuthenticationError, PeerError) as error:
            refused.append(f"{kind}: {error.message}")
    raise PeerError(f"nothing here seals keys to this host ({'; '.join(refused)})")


def to_systemd(provider: str, key: Secret) -> CredentialSeal:
    """By systemd-creds, under the host's key. Raises ProviderUnavailable, PeerError."""
    return CredentialSeal(credential=credentials.seal(_credential(provider), key))


def to_tpm(tcti: str, key: Secret) -> TpmSeal:
    """By the TPM that is reached so, in its present state. Raises ProviderUnavailable, KeyNotUsable."""
    public, private = tpm.seal(tcti, tpm.PCRS, None, key)
    return TpmSeal(tcti=tcti, pcrs=tpm.PCRS, public=public, private=private)


def open_(provider: str, seal: Seal) -> Secret:
    """The key. Raises AuthenticationError when this host does not open it; ProviderUnavailable, KeyNotUsable
    when what opens it is not there now.
    """
    match seal:
        case CredentialSeal():
            key = credentials.unseal(_credential(provider), seal.credential)
        case TpmSeal():
            key = tpm.unseal(seal.tcti, seal.pcrs, None, seal.public, seal.private)
        case _:
            assert_never(seal)
    if len(key) != 32:
        raise AuthenticationError("not a key of a cache", f"{len(key)} bytes")
    return key


def _by_its_tpm(_provider: str, key: Secret) -> TpmSeal:
    device = Path(tpm.DEVICE.partition(":")[2])
    if not device.exists():
        raise ProviderUnavailable("this machine has none")
    return to_tpm(tpm.DEVICE, key)


def _proven(provider: str, key: Secret, seal: Seal) -> Seal:
    with open_(provider, seal) as back:
        if back != key:
            raise BugError("a seal that opens to another key")
    return seal


def _credential(provider: str) -> str:
    return f"ioflt-cache-{provider}"
