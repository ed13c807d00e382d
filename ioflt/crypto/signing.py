"""Ed25519 signatures (RFC 8032), for who has but the public key."""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ioflt.crypto.secret import Secret
from ioflt.errors import MalformedError

#: Bytes of a private key (the seed of RFC 8032) and of a signature.
KEY_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64


def new_key() -> Secret:
    """A new private key: KEY_SIZE random bytes."""
    return Secret.random(KEY_SIZE)


def sign(key: Secret, message: bytes) -> bytes:
    """The signature of the message, SIGNATURE_SIZE bytes."""
    return _private(key).sign(message)


def verify(pem: str, signature: bytes, message: bytes) -> bool:
    """Whether that public key's owner signed the message. Raises MalformedError "no public key"."""
    try:
        public = serialization.load_pem_public_key(pem.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm):
        raise MalformedError("no public key") from None
    if not isinstance(public, Ed25519PublicKey):
        raise MalformedError("no public key", "not one of Ed25519")
    try:
        public.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def public_pem(key: Secret) -> str:
    """Its public key: PEM of a SubjectPublicKeyInfo (RFC 8410), as openssl reads it."""
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return _private(key).public_key().public_bytes(*form).decode("ascii")


def _private(key: Secret) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(key.view())
