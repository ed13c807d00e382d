"""One secret key in a password-protected PKCS#12 file: bytes ↔ `Entry`. Profile and limits in SPEC.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ioflt.crypto import cbc, mac
from ioflt.crypto.kdf import pbkdf2, pkcs12_mac_key
from ioflt.crypto.rng import random_bytes
from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, MalformedError, UnsupportedError, UsageError
from ioflt.format.pkcs12 import der
from ioflt.format.pkcs12.der import Reader, element, oid

#: Longest file read, in bytes.
MAX_SIZE = 64 << 10

#: Bytes of the key in an entry.
KEY_SIZE = 32

#: Most rounds of either derivation: as many as a JDK accepts, some seconds.
MAX_ROUNDS = 5_000_000

#: Longest name and note, in characters.
MAX_TEXT = 512

_MAX_SAFES = 4
_MAX_ATTRIBUTES = 16
_SALT = 20
_SALTS = range(8, 65)

_DATA: Final = oid("1.2.840.113549.1.7.1")
_SECRET_BAG: Final = oid("1.2.840.113549.1.12.10.1.5")
_SHROUDED_KEY: Final = oid("1.2.840.113549.1.12.10.1.2")
_PBES2: Final = oid("1.2.840.113549.1.5.13")
_PBKDF2: Final = oid("1.2.840.113549.1.5.12")
_HMAC_SHA256: Final = oid("1.2.840.113549.2.9")
_AES_256_CBC: Final = oid("2.16.840.1.101.3.4.1.42")
_AES: Final = oid("2.16.840.1.101.3.4.1")  # a key without a mode, as a JDK writes it
_SHA256: Final = oid("2.16.840.1.101.3.4.2.1")
_FRIENDLY_NAME: Final = oid("1.2.840.113549.1.9.20")
# A random UUID, as X.667 lets anyone take one.
_NOTE: Final = oid("2.25.82690878437408214598495832804215703207")

_NULL: Final = element(der.NULL)


@dataclass(frozen=True, slots=True)
class Rounds:
    """Of PBKDF2, which protects the key, and of the derivation of the MAC's key, which proves it."""

    key: int
    mac: int


#: A guess of the password costs about the same by either way.
ROUNDS = Rounds(600_000, 600_000)


@dataclass(frozen=True, slots=True)
class Entry:
    """The key, the name under which keytool lists it, and a line that only we read, if it has them."""

    name: str | None
    note: str | None
    key: Secret = field(repr=False)


def seal(entry: Entry, passphrase: Secret) -> bytes:
    """The file. Raises UsageError for a passphrase that is not UTF-8."""
    rounds = ROUNDS
    with _bmp(passphrase) as password:
        safe = element(der.SEQUENCE, _bag(entry, passphrase, rounds.key))
        content = element(der.SEQUENCE, _data(safe))
        salt = random_bytes(_SALT)
        with pkcs12_mac_key(password, salt, rounds.mac) as key:
            tag = mac.tag(key, content)
    digest = element(der.SEQUENCE, element(der.SEQUENCE, _SHA256, _NULL), element(der.OCTETS, tag))
    mac_data = element(der.SEQUENCE, digest, element(der.OCTETS, salt), der.integer(rounds.mac))
    return element(der.SEQUENCE, der.integer(3), _data(content), mac_data)


def open_(data: bytes, passphrase: Secret) -> Entry:
    """The one key of a file. Nothing but its MAC is looked at before that verifies.

    Raises AuthenticationError "wrong passphrase" (or a changed file), MalformedError, UnsupportedError,
    UsageError for a passphrase that is not UTF-8.
    """
    if len(data) > MAX_SIZE:
        raise MalformedError("too large", f"{len(data)} bytes")
    pfx = _only(data).enter(der.SEQUENCE)
    if pfx.integer() != 3:
        raise UnsupportedError("unknown version", "not a PKCS#12 file of version 3")
    content = _read_data(pfx)
    if pfx.next_tag is None:
        raise UnsupportedError("no MAC")
    _verify(pfx, content, passphrase)
    pfx.end()
    bags = [bag for safe in _safes(content) for bag in safe]
    if len(bags) != 1:
        raise UnsupportedError("not one key", f"{len(bags)} entries")
    return _read_bag(bags[0], passphrase)


def _data(content: bytes) -> bytes:
    """A ContentInfo of type data."""
    return element(der.SEQUENCE, _DATA, element(der.CONTEXT_0, element(der.OCTETS, content)))


def _bag(entry: Entry, passphrase: Secret, rounds: int) -> bytes:
    secret = element(
        der.SEQUENCE,
        _SHROUDED_KEY,
        element(der.CONTEXT_0, element(der.OCTETS, _shroud(entry.key, passphrase, rounds))),
    )
    attributes = []
    if entry.name is not None:
        text = element(der.BMP, entry.name.encode("utf-16-be"))
        attributes.append(element(der.SEQUENCE, _FRIENDLY_NAME, element(der.SET, text)))
    if entry.note is not None:
        text = element(der.UTF8, entry.note.encode())
        attributes.append(element(der.SEQUENCE, _NOTE, element(der.SET, text)))
    value = element(der.CONTEXT_0, secret)
    return element(der.SEQUENCE, _SECRET_BAG, value, element(der.SET, *sorted(attributes)))


def _shroud(key: Secret, passphrase: Secret, rounds: int) -> bytes:
    """EncryptedPrivateKeyInfo (RFC 5958) of the key: PBES2 (RFC 8018)."""
    salt, iv = random_bytes(_SALT), random_bytes(cbc.BLOCK)
    kdf = element(
        der.SEQUENCE,
        element(der.OCTETS, salt),
        der.integer(rounds),
        der.integer(KEY_SIZE),
        element(der.SEQUENCE, _HMAC_SHA256, _NULL),
    )
    scheme = element(
        der.SEQUENCE,
        element(der.SEQUENCE, _PBKDF2, kdf),
        element(der.SEQUENCE, _AES_256_CBC, element(der.OCTETS, iv)),
    )
    # The key stands at the end of its PrivateKeyInfo: built in memory that is wiped.
    head = der.integer(0) + element(der.SEQUENCE, _AES, _NULL) + bytes([der.OCTETS, len(key)])
    with Secret.allocate(2 + len(head) + len(key)) as info:
        info.buffer()[:2] = bytes([der.SEQUENCE, len(head) + len(key)])
        info.buffer()[2 : 2 + len(head)] = head
        info.buffer()[2 + len(head) :] = key.view()
        with pbkdf2("sha256", passphrase, salt, rounds, KEY_SIZE) as wrapping:
            ciphertext = cbc.encrypt(wrapping, iv, info)
    algorithm = element(der.SEQUENCE, _PBES2, scheme)
    return element(der.SEQUENCE, algorithm, element(der.OCTETS, ciphertext))


def _only(data: bytes | memoryview) -> Reader:
    """A reader of data that hold one element and nothing else."""
    whole = Reader(data)
    whole.whole()
    whole.end()
    return Reader(data)


def _expect(reader: Reader, wanted: bytes, what: str) -> None:
    """The next element is that OID."""
    if reader.next_tag != der.OID:
        raise MalformedError("another structure", f"no identifier of the {what}")
    if reader.whole() != wanted:
        raise UnsupportedError(f"foreign {what}")


def _skip_null(reader: Reader) -> None:
    """Parameters that say nothing, and may be left out."""
    if reader.next_tag is not None and len(reader.content(der.NULL)) != 0:
        raise MalformedError("not DER", "a NULL with content")
    reader.end()


def _read_data(reader: Reader) -> memoryview:
    """The content of the next element, a ContentInfo of type data."""
    info = reader.enter(der.SEQUENCE)
    _expect(info, _DATA, "content")
    value = info.enter(der.CONTEXT_0)
    content = value.content(der.OCTETS)
    value.end()
    info.end()
    return content


def _verify(pfx: Reader, content: memoryview, passphrase: Secret) -> None:
    mac_data = pfx.enter(der.SEQUENCE)
    digest = mac_data.enter(der.SEQUENCE)
    algorithm = digest.enter(der.SEQUENCE)
    _expect(algorithm, _SHA256, "MAC")
    _skip_null(algorithm)
    tag = bytes(digest.content(der.OCTETS))
    digest.end()
    salt = _salt(mac_data)
    rounds = _rounds(mac_data)
    mac_data.end()
    if len(tag) != mac.TAG_SIZE:
        raise MalformedError("bad MAC", f"{len(tag)} bytes")
    with _bmp(passphrase) as password, pkcs12_mac_key(password, salt, rounds) as key:
        try:
            mac.verify(key, content, tag)
        except AuthenticationError:
            raise AuthenticationError("wrong passphrase", "or the file was changed") from None


def _safes(content: memoryview) -> list[list[Reader]]:
    """The bags of every SafeContents."""
    found: list[list[Reader]] = []
    safes = _only(content).enter(der.SEQUENCE)
    while safes.next_tag is not None:
        if len(found) == _MAX_SAFES:
            raise UnsupportedError("not one key", "too many contents")
        contents = _only(_read_data(safes)).enter(der.SEQUENCE)
        bags: list[Reader] = []
        while contents.next_tag is not None:
            bags.append(contents.enter(der.SEQUENCE))
        found.append(bags)
    return found


def _read_bag(bag: Reader, passphrase: Secret) -> Entry:
    _expect(bag, _SECRET_BAG, "entry")
    value = bag.enter(der.CONTEXT_0)
    secret = value.enter(der.SEQUENCE)
    value.end()
    _expect(secret, _SHROUDED_KEY, "secret")
    value = secret.enter(der.CONTEXT_0)
    shrouded = value.content(der.OCTETS)
    value.end()
    secret.end()
    name = note = None
    if bag.next_tag is not None:
        name, note = _read_attributes(bag.enter(der.SET))
    bag.end()
    return Entry(name, note, _unshroud(_only(shrouded).enter(der.SEQUENCE), passphrase))


def _read_attributes(attributes: Reader) -> tuple[str | None, str | None]:
    """The name and the note; others are passed over."""
    found: dict[bytes, Reader] = {}
    for _ in range(_MAX_ATTRIBUTES):
        if attributes.next_tag is None:
            break
        attribute = attributes.enter(der.SEQUENCE)
        if attribute.next_tag != der.OID:
            raise MalformedError("another structure", "no identifier of the attribute")
        kind = attribute.whole()
        if kind in found:
            raise MalformedError("another structure", "twice the same attribute")
        found[kind] = attribute.enter(der.SET)
        attribute.end()
    attributes.end()
    return _text(found.get(_FRIENDLY_NAME), der.BMP, "utf-16-be"), _text(found.get(_NOTE), der.UTF8, "utf-8")


def _text(values: Reader | None, tag: int, encoding: str) -> str | None:
    if values is None:
        return None
    content = values.content(tag)
    values.end()
    try:
        text = str(content, encoding)
    except UnicodeDecodeError:
        raise MalformedError("bad text") from None
    if len(text) > MAX_TEXT or not text.isprintable():
        raise MalformedError("bad text", "too long, or with control characters")
    return text


def _unshroud(info: Reader, passphrase: Secret) -> Secret:
    algorithm = info.enter(der.SEQUENCE)
    ciphertext = bytes(info.content(der.OCTETS))
    info.end()
    _expect(algorithm, _PBES2, "encryption")
    scheme = algorithm.enter(der.SEQUENCE)
    algorithm.end()
    derivation = scheme.enter(der.SEQUENCE)
    cipher = scheme.enter(der.SEQUENCE)
    scheme.end()
    _expect(derivation, _PBKDF2, "key derivation")
    parameters = derivation.enter(der.SEQUENCE)
    derivation.end()
    salt = _salt(parameters)
    rounds = _rounds(parameters)
    if parameters.next_tag == der.INTEGER and parameters.integer() != KEY_SIZE:
        raise UnsupportedError("foreign cipher", "a key that is not of 256 bits")
    if parameters.next_tag is None:  # HMAC-SHA-1, the default
        raise UnsupportedError("foreign hash")
    hash_ = parameters.enter(der.SEQUENCE)
    parameters.end()
    _expect(hash_, _HMAC_SHA256, "hash")
    _skip_null(hash_)
    _expect(cipher, _AES_256_CBC, "cipher")
    iv = bytes(cipher.content(der.OCTETS))
    cipher.end()
    if len(iv) != cbc.BLOCK:
        raise MalformedError("bad IV", f"{len(iv)} bytes")
    with (
        pbkdf2("sha256", passphrase, salt, rounds, KEY_SIZE) as key,
        cbc.decrypt(key, iv, ciphertext) as plain,
    ):
        return _read_key(_only(plain.view()).enter(der.SEQUENCE))


def _read_key(info: Reader) -> Secret:
    """The key of a PrivateKeyInfo. What algorithm it is for is not our business."""
    if info.integer() != 0:
        raise UnsupportedError("foreign key", "not a key of version 0")
    info.content(der.SEQUENCE)
    key = info.content(der.OCTETS)
    info.end()
    if len(key) != KEY_SIZE:
        raise UnsupportedError("foreign key", f"{len(key)} bytes")
    return Secret(key)


def _salt(reader: Reader) -> bytes:
    salt = bytes(reader.content(der.OCTETS))
    if len(salt) not in _SALTS:
        raise UnsupportedError("absurd salt", f"{len(salt)} bytes")
    return salt


def _rounds(reader: Reader) -> int:
    rounds = reader.integer()
    if not 1 <= rounds <= MAX_ROUNDS:
        raise UnsupportedError("absurd rounds", str(rounds))
    return rounds


def _bmp(passphrase: Secret) -> Secret:
    """A passphrase as PKCS#12 hashes it: UTF-16, big endian, and two zero bytes."""
    try:
        text = str(passphrase.view(), "utf-8")
    except UnicodeDecodeError:
        raise UsageError("the passphrase of a PKCS#12 file must be text in UTF-8") from None
    return Secret(text.encode("utf-16-be") + b"\0\0")
