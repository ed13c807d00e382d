"""Ed25519 as RFC 8032 has it; the public key as RFC 8410 writes it."""

import pytest

from ioflt.crypto import signing
from ioflt.crypto.secret import Secret
from ioflt.errors import MalformedError

BEGIN = "-----BEGIN PUBLIC KEY-----"

# RFC 8032, section 7.1, tests 1 to 3
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("key", "message", "signature"), VECTORS)
def test_signatures_are_those_of_the_rfc(key, message, signature):
    with Secret(bytes.fromhex(key)) as secret:
        assert signing.sign(secret, bytes.fromhex(message)).hex() == signature


def test_each_key_is_another():
    with signing.new_key() as one, signing.new_key() as other:
        assert len(one) == signing.KEY_SIZE
        assert signing.public_pem(one) != signing.public_pem(other)
        assert signing.public_pem(one).startswith("-----BEGIN PUBLIC KEY-----\n")


def test_what_was_signed_verifies_and_nothing_else() -> None:
    with signing.new_key() as key, signing.new_key() as other:
        pem = signing.public_pem(key)
        signature = signing.sign(key, b"message")
        assert signing.verify(pem, signature, b"message")
        assert not signing.verify(pem, signature, b"another")
        assert not signing.verify(pem, signature[:-1], b"message")
        assert not signing.verify(signing.public_pem(other), signature, b"message")


@pytest.mark.parametrize("pem", ["", "no key", f"{BEGIN}\n-----END PUBLIC KEY-----\n", "\udcff"])
def test_what_is_no_public_key(pem: str) -> None:
    with pytest.raises(MalformedError, match="no public key"):
        signing.verify(pem, bytes(64), b"message")
