"""A VMX sealed under a passphrase, as VMware Workstation and Fusion write it: for exchange with them.

Ten thousand rounds of PBKDF2-SHA-1 are weak; this form is never used on the datastore.
Layout and worked bytes: SPEC.md.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

from ioflt.crypto import sealed as box
from ioflt.crypto.kdf import HashName, pbkdf2
from ioflt.crypto.rng import random_bytes
from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, MalformedError, UnsupportedError
from ioflt.format import dictionary
from ioflt.format.dictionary import Dictionary
from ioflt.format.keysafe import cryptodict, safe
from ioflt.format.keysafe.cryptodict import CipherKey, CryptoDict
from ioflt.format.keysafe.escape import unbase64
from ioflt.format.keysafe.locator import PairLocator, PhraseLocator
from ioflt.format.keysafe.safe import KeySafe
from ioflt.format.vmx import text as vmx_text

#: Rounds that today's Workstation uses; readers take any number.
ROUNDS: Final = 10_000

#: Most rounds accepted from a file: about two seconds for each pair.
MAX_ROUNDS: Final = 2_000_000

_MAC: Final = "HMAC-SHA-1"
_HASHES: Final[dict[str, HashName]] = {"PBKDF2-HMAC-SHA-1": "sha1", "PBKDF2-HMAC-SHA-256": "sha256"}

#: Lines that only a sealed VMX has; they do not return into the opened one.
_SEALING_LINES: Final = frozenset({"encryptedvm.guid", "vmx.encryptiontype"})


@dataclass(frozen=True, slots=True)
class Randomness:
    """What a seal draws: the phrase's id (8 bytes), salt, IVs of safe and data (16 each), config key (32)."""

    unique_id: bytes
    salt: bytes
    safe_iv: bytes
    data_iv: bytes
    config_key: Secret

    @classmethod
    def draw(cls) -> Randomness:
        return cls(random_bytes(8), random_bytes(16), random_bytes(16), random_bytes(16), Secret.random(32))


def export_passphrase(plaintext: bytes, passphrase: Secret, rounds: int = ROUNDS) -> bytes:
    """The sealed text of a VMX under `passphrase` (UTF-8).

    PBKDF2-HMAC-SHA-1, AES-256, HMAC-SHA-1, one phrase pair: the profile that every known reader opens.
    """
    return seal(plaintext, passphrase, rounds, Randomness.draw())


def seal(plaintext: bytes, passphrase: Secret, rounds: int, drawn: Randomness) -> bytes:
    """As `export_passphrase`, with what it would draw given."""
    derivation = CryptoDict(
        {
            "pass2key": "PBKDF2-HMAC-SHA-1",
            "cipher": "AES-256",
            "rounds": str(rounds),
            "salt": base64.b64encode(drawn.salt).decode(),
        }
    )
    inner = cryptodict.write_key(CipherKey("AES-256", drawn.config_key))
    with inner, pbkdf2("sha1", passphrase, drawn.salt, rounds, 32) as phrase_key:
        locked = box.seal(phrase_key, inner.view(), _MAC, drawn.safe_iv)
    locator = PhraseLocator(base64.b64encode(drawn.unique_id).decode(), str(derivation))
    safe_text = safe.write(KeySafe((PairLocator(locator, _MAC, locked),)))
    data = box.seal(drawn.config_key, plaintext, _MAC, drawn.data_iv)
    return vmx_text.write(_clear_lines(plaintext), safe_text, data)


def import_passphrase(text: bytes, passphrase: Secret) -> bytes:
    """The VMX inside `text`, preceded by the clear lines that it lacks, except those of the encryption.

    Raises AuthenticationError "wrong passphrase" or "sealed box does not verify"; UnsupportedError
    "no passphrase pair", "unknown pass2key", "unknown cipher", "unknown MAC" or "too many rounds";
    MalformedError for text that does not parse.
    """
    vmx = vmx_text.parse(text)
    mac, config = _unlock(safe.parse(vmx.safe), passphrase)
    with config.key, box.open_(config.key, vmx.data, mac) as plaintext:
        return _merged(vmx.lines, bytes(plaintext.view()))


def _unlock(key_safe: KeySafe, passphrase: Secret) -> tuple[str, CipherKey]:
    """The config key and the MAC's name from the first pair that the passphrase opens."""
    phrases = [(pair, pair.locator) for pair in key_safe.pairs if isinstance(pair.locator, PhraseLocator)]
    if not phrases:
        raise UnsupportedError("no passphrase pair")
    for pair, locator in phrases:
        with _phrase_key(locator, passphrase) as phrase_key:
            try:
                inner = box.open_(phrase_key, pair.data, pair.mac)
            except AuthenticationError:
                continue
        with inner:
            return pair.mac, cryptodict.parse_key(inner)
    raise AuthenticationError("wrong passphrase")


def _phrase_key(locator: PhraseLocator, passphrase: Secret) -> Secret:
    derivation = cryptodict.parse(locator.crypto_dict)
    pass2key = derivation.need("pass2key")
    if pass2key not in _HASHES:
        raise UnsupportedError("unknown pass2key", pass2key[:40])
    length = cryptodict.key_size(derivation.need("cipher"))
    rounds, salt = derivation.need("rounds"), unbase64(derivation.need("salt"))
    if not re.fullmatch("[1-9][0-9]{0,9}", rounds, re.ASCII):
        raise MalformedError("bad rounds")
    if int(rounds) > MAX_ROUNDS:
        raise UnsupportedError("too many rounds", f"{rounds}, at most {MAX_ROUNDS}")
    return pbkdf2(_HASHES[pass2key], passphrase, salt, int(rounds), length)


def _clear_lines(plaintext: bytes) -> Dictionary:
    """Copies of the lines that Workstation leaves in clear, from a plaintext that has them."""
    lines = dictionary.parse(plaintext)
    kept = (lines.line(key) for key in (".encoding", "displayName"))
    raw = b"".join(_whole(line.raw) for line in kept if line is not None)
    return dictionary.parse(raw)


def _merged(outer: Dictionary, plaintext: bytes) -> bytes:
    inner = dictionary.parse(plaintext)
    clear = (line for key in outer if key not in inner and not _is_sealing(key) if (line := outer.line(key)))
    return b"".join(_whole(line.raw) for line in clear) + plaintext


def _is_sealing(key: str) -> bool:
    return key.lower().startswith("encryption.") or key.lower() in _SEALING_LINES


def _whole(raw: bytes) -> bytes:
    return raw.rstrip(b"\r\n") + b"\n"
