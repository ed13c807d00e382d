"""X.509: our client certificates, requests for them, and what others' certificates say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ioflt.crypto.secret import Secret
from ioflt.errors import MalformedError, UsageError

#: RSA, as vCenter makes it: every key server takes it.
_KEY_BITS: Final = 3072
_LEEWAY: Final = timedelta(hours=1)  # clocks differ


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says of itself."""

    subject: str
    issuer: str
    not_after: datetime
    der: bytes


def new_key() -> Secret:
    """A new private key, in PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Secret(key.private_bytes(*form))


def self_signed(key: Secret, name: str, days: int) -> str:
    """A certificate for TLS clients that its own key signs, in PEM."""
    private = _load(key)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(name))
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LEEWAY)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
    )
    return _pem(builder.sign(private, hashes.SHA256()))


def request(key: Secret, name: str) -> str:
    """A certificate signing request for a TLS client, in PEM."""
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_name(name))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    )
    return _pem(builder.sign(_load(key), hashes.SHA256()))


def read(pem: str) -> list[Certificate]:
    """The certificates in a PEM text; what stands between them is passed over. Raises MalformedError."""
    try:
        return [_told(found) for found in x509.load_pem_x509_certificates(pem.encode())]
    except ValueError:
        raise MalformedError("no certificate") from None


def to_pem(der: bytes) -> str:
    """A DER certificate in PEM. Raises MalformedError."""
    try:
        return _pem(x509.load_der_x509_certificate(der))
    except ValueError:
        raise MalformedError("no certificate") from None


def without_comments(pem: str) -> str:
    """The certificates of a PEM text and nothing else."""
    return "".join(to_pem(found.der) for found in read(pem))


def without_a_key(der: bytes) -> str:
    """A certificate with the name of the issuer of that one, in PEM: expired, its key forgotten."""
    name = x509.load_der_x509_certificate(der).issuer
    private = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 2 * _LEEWAY)
        .not_valid_after(now - _LEEWAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    return _pem(builder.sign(private, hashes.SHA256()))


def belongs(key: Secret, pem: str) -> bool:
    """Whether the first certificate in the text is that of the private key."""
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    theirs = x509.load_der_x509_certificate(read(pem)[0].der).public_key()
    return theirs.public_bytes(*form) == _load(key).public_key().public_bytes(*form)


def _load(key: Secret) -> rsa.RSAPrivateKey:
    try:
        found = serialization.load_pem_private_key(bytes(key.view()), None)
    except (ValueError, TypeError):
        raise UsageError("not a private key without a passphrase") from None
    if not isinstance(found, rsa.RSAPrivateKey):
        raise UsageError("not an RSA key")
    return found


def _told(found: x509.Certificate) -> Certificate:
    return Certificate(
        found.subject.rfc4514_string(),
        found.issuer.rfc4514_string(),
        found.not_valid_after_utc,
        found.public_bytes(serialization.Encoding.DER),
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(found: x509.Certificate | x509.CertificateSigningRequest) -> str:
    return found.public_bytes(serialization.Encoding.PEM).decode()
