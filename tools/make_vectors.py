"""Writes tests/vectors/luks2, recrypt and record: one vector per line of the lists below.

Shares no code with `ioflt.format` or `ioflt.crypto`: the bytes are made here with the standard library and
PyCryptodome. Everything is fixed, no randomness: a second run writes the same vectors.

    tools/make_vectors.py            write
    tools/make_vectors.py --check    compare with what is there, exit 1 on a difference
"""

from __future__ import annotations

import copy
import hashlib
import hmac
import json
import struct
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from Crypto.Cipher import AES

from ioflt.testing.vectors import Vector, read, to_bytes

ROOT = Path(__file__).resolve().parent.parent / "tests" / "vectors"

KEK = hashlib.sha256(b"ioflt vectors: kek").digest()
DEK = hashlib.sha512(b"ioflt vectors: dek").digest()
NEW_DEK = hashlib.sha512(b"ioflt vectors: new dek").digest()
UUID = "0f0e0d0c-0b0a-4908-8706-050403020100"
OTHER_UUID = "11111111-2222-4333-8444-555555555555"
FILE_ID = (1 << 62) + 5
HEADER, JSON_AREA, BODY = 16384, 12288, 1048576
SLOTS = (917504, 983040)

Json = dict[str, Any]


# The same constructions as in the SPECs, once more


def hkdf(key: bytes, label: bytes, context: bytes = b"") -> bytes:
    return hmac.digest(key, b"ioflt/1\0" + label + b"\0" + context + b"\x01", "sha256")


def salt(name: str) -> bytes:
    return hashlib.sha512(name.encode()).digest()


def b64(data: bytes) -> str:
    return b64encode(data).decode()


def wrapped(
    *,
    thin: bool = True,
    uuid: str = UUID,
    provider: str = "local",
    key_id: str = "key-1",
    dek: bytes = DEK,
    tagged: bool = False,
) -> bytes:
    fields = [
        b"ioflt luks2 token 2" if tagged else b"ioflt luks2 token 1",
        uuid.encode(),
        b"aes-xts-plain64",
        struct.pack(">Q", 4096),
        struct.pack(">Q", BODY),
        b"thin" if thin else b"thick",
        provider.encode(),
        key_id.encode(),
        *([b"hmac-sha256-128"] if tagged else []),
    ]
    nonce = salt("nonce" + str(fields))[:12]  # one DEK per set of fields
    cipher = AES.new(hkdf(KEK, b"dek-wrap"), AES.MODE_GCM, nonce=nonce)
    bound = b"".join(struct.pack(">I", len(field)) + field for field in fields)
    cipher.update(hashlib.sha256(bound).digest())
    ciphertext, tag = cipher.encrypt_and_digest(dek)
    return nonce + ciphertext + tag


def token(
    *,
    thin: bool = True,
    uuid: str = UUID,
    provider: str = "local",
    key_id: str = "key-1",
    dek: bytes = DEK,
) -> Json:
    return {
        "type": "ioflt",
        "keyslots": [],
        "version": 1,
        "provider": provider,
        "key_id": key_id,
        "provisioning": "thin" if thin else "thick",
        "wrapped": b64(wrapped(thin=thin, uuid=uuid, provider=provider, key_id=key_id, dek=dek)),
    }


def tagged_token(**fields: object) -> Json:
    """The token of a container with tags."""
    made = token() | {"version": 2, "integrity": "hmac-sha256-128", "wrapped": b64(wrapped(tagged=True))}
    return made | fields


def keyslot(offset: int = 32768, size: int = 258048) -> Json:
    return {
        "type": "luks2",
        "key_size": 64,
        "af": {"type": "luks1", "stripes": 4000, "hash": "sha256"},
        "area": {
            "type": "raw",
            "offset": str(offset),
            "size": str(size),
            "encryption": "aes-xts-plain64",
            "key_size": 64,
        },
        "kdf": {"type": "argon2id", "time": 4, "memory": 65536, "cpus": 2, "salt": b64(salt("slot")[:32])},
    }


def digest_of(dek: bytes) -> Json:
    return {
        "type": "pbkdf2",
        "keyslots": [],
        "segments": ["0"],
        "hash": "sha256",
        "iterations": 1000,
        "salt": b64(salt("digest")[:32]),
        "digest": b64(hashlib.pbkdf2_hmac("sha256", dek, salt("digest")[:32], 1000)),
    }


def metadata(*, thin: bool = True) -> Json:
    return {
        "keyslots": {},
        "tokens": {"0": token(thin=thin)},
        "segments": {
            "0": {
                "type": "crypt",
                "offset": str(BODY),
                "size": "dynamic",
                "iv_tweak": "0",
                "encryption": "aes-xts-plain64",
                "sector_size": 4096,
            }
        },
        "digests": {"0": digest_of(DEK)},
        "config": {"json_size": str(JSON_AREA), "keyslots_size": "786432"},
    }


def recrypt_token(**fields: object) -> Json:
    made = {
        "type": "ioflt-recrypt",
        "keyslots": [],
        "version": 1,
        "uuid": OTHER_UUID,
        "tokens": [token(uuid=OTHER_UUID, dek=NEW_DEK)],
        "digest": digest_of(NEW_DEK),
        "slots": {},
    }
    return made | fields


def recrypting(change: Json | None = None) -> Json:
    """The metadata of a container while it is recrypted in place."""
    found = metadata()
    found["tokens"]["1"] = recrypt_token() if change is None else change
    found["config"]["requirements"] = {"mandatory": ["ioflt-recrypt-v1"]}
    return found


def text_of(found: Json) -> bytes:
    return json.dumps(found, separators=(",", ":")).encode()


def header_copy(
    which: int,
    text: bytes,
    *,
    magic: bytes | None = None,
    version: int = 2,
    size: int = HEADER,
    sequence: int = 1,
    label: bytes = b"",
    algorithm: bytes = b"sha256",
    uuid: bytes = UUID.encode(),
    subsystem: bytes = b"",
    offset: int | None = None,
    padding: bytes = b"",
    fill: bytes = b"\0",
) -> bytes:
    head = struct.pack(
        ">6sHQQ48s32s64s40s48sQ184s64x",
        magic or (b"LUKS\xba\xbe", b"SKUL\xba\xbe")[which],
        version,
        size,
        sequence,
        label,
        algorithm,
        salt(f"header {which}"),
        uuid,
        subsystem,
        which * HEADER if offset is None else offset,
        padding,
    )
    area = head.ljust(4096, b"\0") + text.ljust(JSON_AREA, fill)
    return area[:448] + hashlib.sha256(area).digest() + area[480:]


def state(
    sequence: int = 1,
    length: int | None = None,
    initialised: int | None = None,
    *,
    file_id: int = FILE_ID,
    version: int = 1,
    flags: int | None = None,
    uuid: str = UUID,
    tail: bytes = b"",
) -> bytes:
    if flags is None:
        flags = (length is not None) | (initialised is not None) << 1
    head = struct.pack(
        ">8sIIQQQQ16x", b"IOFLTst\n", version, flags, sequence, length or 0, initialised or 0, file_id
    )
    key = hkdf(DEK, b"state", bytes.fromhex(uuid.replace("-", "")))
    return (head + hmac.digest(key, head, "sha256") + tail).ljust(4096, b"\0")


def container(primary: bytes, secondary: bytes, slot0: bytes = b"", slot1: bytes | None = None) -> bytes:
    area = bytearray(BODY)
    area[:HEADER] = primary
    area[HEADER : 2 * HEADER] = secondary
    for offset, slot in zip(SLOTS, (slot0, state() if slot1 is None else slot1), strict=True):
        area[offset : offset + len(slot)] = slot
    return bytes(area)


def headers(text: bytes, **fields: Any) -> bytes:  # noqa: ANN401  # those of header_copy
    """A container whose two header copies have the same fields."""
    return container(header_copy(0, text, **fields), header_copy(1, text, **fields))


def states(slot0: bytes, slot1: bytes) -> bytes:
    text = text_of(metadata())
    return container(header_copy(0, text), header_copy(1, text), slot0, slot1)


def changed(change: Callable[[Json], object]) -> bytes:
    """A container whose metadata was changed and sealed again, as anyone can who can write the datastore."""
    found = copy.deepcopy(metadata())
    change(found)
    return headers(text_of(found))


def field(path: str, value: object) -> bytes:
    """A container with one value of its metadata replaced; None: removed."""

    def change(found: Json) -> None:
        *parents, last = path.split("/")
        for name in parents:
            found = found[name]
        if value is None:
            del found[last]
        else:
            found[last] = value

    return changed(change)


def with_keyslots(*slots: Json) -> bytes:
    def change(found: Json) -> None:
        found["keyslots"] = {str(number): slot for number, slot in enumerate(slots)}
        found["digests"]["0"]["keyslots"] = list(found["keyslots"])

    return changed(change)


def slot_field(path: str, value: object) -> bytes:
    slot = keyslot()
    *parents, last = path.split("/")
    inner = slot
    for name in parents:
        inner = inner[name]
    inner[last] = value
    return with_keyslots(slot)


def json_text(old: bytes, new: bytes) -> bytes:
    text = text_of(metadata())
    assert old in text
    return headers(text.replace(old, new, 1))


def flipped(data: bytes, *offsets: int) -> bytes:
    area = bytearray(data)
    for offset in offsets:
        area[offset] ^= 1
    return bytes(area)


# The vectors: name, expect, comment, body [, values]

Case = tuple[str, str, str, bytes] | tuple[str, str, str, bytes, Json]


def luks2() -> Iterator[Case]:
    text, good = text_of(metadata()), headers(text_of(metadata()))
    copies = header_copy(0, text), header_copy(1, text)
    bare = {"state": f"1 - {FILE_ID} -"}

    yield "thin", "ok", "a new thin container", good, bare
    yield "thick", "ok", "a new thick container", headers(text_of(metadata(thin=False))), bare
    tagged = text_of(metadata() | {"tokens": {"0": tagged_token()}})
    yield "tagged", "ok", "a new thin container with tags", headers(tagged), bare
    yield (
        "length",
        "ok",
        "an exact length, in slot 0 because its number is even",
        states(state(2, 12345), state()),
        {"state": f"2 12345 {FILE_ID} -"},
    )
    yield (
        "mark",
        "ok",
        "initialised up to 1 MiB of a longer length",
        states(b"", state(7, 1 << 40, 1 << 20)),
        {"state": f"7 {1 << 40} {FILE_ID} {1 << 20}"},
    )
    yield (
        "empty-file",
        "ok",
        "length 0 is not the same as no length",
        states(b"", state(1, 0)),
        {"state": f"1 0 {FILE_ID} -"},
    )
    yield (
        "longest-file",
        "ok",
        "the largest length there is",
        states(b"", state(1, 2**63 - 2**20 - 4096)),
        {"state": f"1 {2**63 - 2**20 - 4096} {FILE_ID} -"},
    )
    yield (
        "state-torn",
        "ok",
        "the newer block is torn, the older one counts",
        states(state(2, 999)[:60], state(1, 5)),
        {"state": f"1 5 {FILE_ID} -"},
    )
    yield (
        "state-sequence-top",
        "ok",
        "the highest number of a state block",
        states(b"", state(2**63 - 1)),
        {"state": f"{2**63 - 1} - {FILE_ID} -"},
    )
    yield "primary-only", "ok", "the secondary copy is zero", container(copies[0], bytes(HEADER)), bare
    yield "secondary-only", "ok", "the primary copy is zero", container(bytes(HEADER), copies[1]), bare
    yield (
        "primary-newer",
        "ok",
        "power was cut between secondary and primary, the other way round",
        container(header_copy(0, text, sequence=9), header_copy(1, text, sequence=8)),
        bare | {"sequence": "9"},
    )
    yield (
        "secondary-newer",
        "ok",
        "power was cut between secondary and primary",
        container(header_copy(0, b"{}", sequence=8), header_copy(1, text, sequence=9)),
        bare | {"sequence": "9"},
    )
    yield (
        "sequence-top",
        "ok",
        "the highest number of a header",
        headers(text, sequence=2**63 - 1),
        bare | {"sequence": str(2**63 - 1)},
    )
    yield "label", "ok", "label and subsystem", headers(text, label="Büro".encode(), subsystem=b"a=b"), bare
    yield "keyslots", "ok", "three passphrases", with_keyslots(*map(keyslot, (32768, 290816, 548864))), bare
    yield (
        "two-tokens",
        "ok",
        "two providers wrap the DEK",
        changed(lambda found: found["tokens"].update({"1": token(provider="kms", key_id="k/2")})),
        bare,
    )
    yield (
        "foreign-token",
        "ok",
        "a token of another program is kept",
        changed(lambda found: found["tokens"].update({"7": {"type": "x", "keyslots": [], "y": 1.5}})),
        bare,
    )
    yield "persistent-flag", "ok", "hints to dm-crypt", field("config/flags", ["allow-discards"]), bare

    yield "empty", "truncated header", "no byte", b""
    yield "half-header", "truncated header", "16383 bytes", good[:16383]
    yield "no-state", "truncated state block", "ends behind the headers", good[: 2 * HEADER]
    yield "zeros", "bad magic", "1 MiB of zeros", bytes(BODY)
    yield "luks1", "unknown version", "LUKS version 1", headers(text, version=1)
    yield "luks3", "unknown version", "LUKS version 3", headers(text, version=3)
    yield (
        "swapped-copies",
        "bad magic",
        "each copy where the other belongs",
        container(copies[1], copies[0]),
    )
    yield "header-32k", "foreign header size", "hdr_size 32768", headers(text, size=32768)
    yield "header-huge", "foreign header size", "hdr_size 2**64 - 1", headers(text, size=2**64 - 1)
    yield "header-offset", "bad header offset", "hdr_offset 4096 in both", headers(text, offset=4096)
    yield "sha512", "unknown checksum", "csum_alg sha512", headers(text, algorithm=b"sha512")
    yield "flip-json", "bad checksum", "one bit of each JSON", flipped(good, 4100, HEADER + 4100)
    yield "flip-sum", "bad checksum", "one bit of each checksum", flipped(good, 448, HEADER + 448)
    yield "flip-salt", "bad checksum", "one bit of each salt", flipped(good, 110, HEADER + 110)
    yield "padding", "non-zero padding", "a byte in the reserved field", headers(text, padding=b"x")
    yield "sequence-zero", "absurd sequence", "number 0", headers(text, sequence=0)
    yield (
        "sequence-rollover",
        "absurd sequence",
        "2**64 - 1: the next is 0",
        headers(text, sequence=2**64 - 1),
    )
    yield "uuid-upper", "bad uuid", "upper case", headers(text, uuid=UUID.upper().encode())
    yield "uuid-path", "bad uuid", "no UUID: names a sidecar elsewhere", headers(text, uuid=b"../../etc/x")
    yield "label-open", "bad label", "48 bytes, no closing NUL", headers(text, label=b"x" * 48)
    yield "label-latin1", "bad label", "not UTF-8", headers(text, label=b"B\xfcro")
    yield "json-full", "unterminated JSON", "blanks to the end of the area", headers(text, fill=b" ")
    yield (
        "json-oversized",
        "unterminated JSON",
        "a string longer than the area",
        headers(b'{"x":"' + b"y" * (JSON_AREA - 6)),
    )
    yield "json-twice", "data after JSON", "another document behind the NUL", headers(text + b"\0{}")
    yield "json-latin1", "not UTF-8", "a lone 0xff", json_text(b'"local"', b'"\xff"')
    yield "json-cut", "bad JSON", "the last brace is missing", headers(text[:-1])
    yield "json-list", "not an object", "a list", headers(b"[]")
    yield "json-empty", "bad JSON", "no JSON at all", headers(b"")
    yield "json-nan", "absurd number", "NaN", json_text(b":4096", b":NaN")
    yield "json-inf", "absurd number", "1e999", json_text(b":4096", b":1e999")
    yield "json-digits", "absurd number", "5000 digits", json_text(b":4096", b":" + b"4" * 5000)
    yield (
        "json-deep",
        "nested too deeply",
        "33 levels",
        json_text(b'"keyslots":[]', b'"keyslots":' + b"[" * 31 + b"]" * 31),
    )
    yield "json-abyss", "nested too deeply", "6000 levels", headers(b"[" * 6000 + b"]" * 6000)
    yield "json-duplicate", "duplicate key", "two offsets", json_text(b'"offset":', b'"offset":"0","offset":')

    yield "no-segments", "bad field", "a section is missing", field("segments", None)
    yield "keyslots-list", "bad field", "a section of another type", field("keyslots", [])
    yield "new-section", "unknown section", "a sixth section", field("extras", {})
    yield "null-cipher", "null cipher", "the data in clear", field("segments/0/encryption", "cipher_null-ecb")
    yield (
        "null-cipher-keyslot",
        "null cipher",
        "a slot in clear",
        slot_field("area/encryption", "cipher_null-ecb"),
    )
    yield "cbc", "foreign cipher", "CBC", field("segments/0/encryption", "aes-cbc-essiv:sha256")
    yield "plain32", "foreign cipher", "32-bit tweak", field("segments/0/encryption", "aes-xts-plain")
    yield "offset-16m", "foreign data offset", "cryptsetup's default", field("segments/0/offset", "16777216")
    yield "offset-0", "foreign data offset", "the header as data", field("segments/0/offset", "0")
    yield "offset-number", "bad field", "a number that is no string", field("segments/0/offset", BODY)
    yield "offset-hex", "bad field", "not decimal", field("segments/0/offset", "0x100000")
    yield "offset-2-64", "bad field", "2**64 + 1 MiB", field("segments/0/offset", str(2**64 + BODY))
    yield "size-fixed", "foreign data size", "4096 bytes", field("segments/0/size", "4096")
    yield "iv-tweak", "foreign iv tweak", "8", field("segments/0/iv_tweak", "8")
    yield "sector-512", "foreign sector size", "512", field("segments/0/sector_size", 512)
    yield "sector-true", "foreign sector size", "no number", field("segments/0/sector_size", True)
    yield (
        "integrity",
        "unknown segment field",
        "dm-integrity below",
        field("segments/0/integrity", {"type": "aead"}),
    )
    yield "linear", "foreign segment type", "no encryption at all", field("segments/0/type", "linear")
    yield "two-segments", "foreign segments", "a second one", field("segments/1", metadata()["segments"]["0"])
    yield "no-segment", "foreign segments", "none", field("segments", {})
    yield (
        "reencrypt-requirement",
        "re-encryption state",
        "the flag that cryptsetup sets",
        field("config/requirements", {"mandatory": ["online-reencrypt-v2"]}),
    )
    yield (
        "reencrypt-keyslot",
        "re-encryption state",
        "the slot that cryptsetup makes",
        slot_field("type", "reencrypt"),
    )
    yield (
        "reencrypt-area",
        "re-encryption state",
        "its area in a plain slot",
        slot_field("area/type", "checksum"),
    )
    yield (
        "reencrypt-segment",
        "re-encryption state",
        "a backup segment",
        field("segments/1", {**metadata()["segments"]["0"], "flags": ["backup-final"]}),
    )
    yield (
        "recrypt",
        "recrypt under way",
        "a recrypt in place was interrupted: opened by nobody",
        headers(text_of(recrypting())),
    )
    yield (
        "recrypt-requirement-alone",
        "bad recrypt state",
        "the requirement of a recrypt without its token",
        field("config/requirements", {"mandatory": ["ioflt-recrypt-v1"]}),
    )
    yield (
        "recrypt-token-alone",
        "bad recrypt state",
        "the token of a recrypt without its requirement",
        field("tokens/1", recrypt_token()),
    )
    yield (
        "recrypt-version",
        "unknown requirement",
        "a recrypt of a later version",
        field("config/requirements", {"mandatory": ["ioflt-recrypt-v2"]}),
    )
    yield (
        "recrypt-and-other",
        "unknown requirement",
        "a recrypt, and something else",
        field("config/requirements", {"mandatory": ["ioflt-recrypt-v1", "opal"]}),
    )
    yield (
        "requirement",
        "unknown requirement",
        "of the future",
        field("config/requirements", {"mandatory": ["opal"]}),
    )
    yield "flag", "unknown flag", "of the future", field("config/flags", ["zoned"])
    yield "config-field", "unknown flag", "a new field of config", field("config/mode", "x")
    yield "json-size", "foreign JSON size", "another JSON area", field("config/json_size", "28672")
    yield (
        "keyslots-size",
        "foreign keyslots size",
        "over the state blocks",
        field("config/keyslots_size", "1015808"),
    )
    yield (
        "keyslot-in-state",
        "keyslot outside its area",
        "over the state blocks",
        with_keyslots(keyslot(819200)),
    )
    yield (
        "keyslot-in-header",
        "keyslot outside its area",
        "over the secondary header",
        with_keyslots(keyslot(16384)),
    )
    yield (
        "keyslot-overflow",
        "keyslot outside its area",
        "ends beyond 2**64",
        with_keyslots(keyslot(32768, 2**64 - 4096)),
    )
    yield "keyslots-overlap", "keyslots overlap", "two in one place", with_keyslots(keyslot(), keyslot(36864))
    yield "keyslot-unaligned", "bad keyslot area", "at 33000", with_keyslots(keyslot(33000))
    yield (
        "keyslot-small",
        "bad keyslot area",
        "too small for its stripes",
        with_keyslots(keyslot(32768, 4096)),
    )
    yield "keyslot-type", "foreign keyslot", "an unknown type", slot_field("type", "x")
    yield "keyslot-area-list", "foreign keyslot", "area type in a list", slot_field("area/type", ["raw"])
    yield "keyslot-short-key", "foreign key size", "a 256-bit key", slot_field("key_size", 32)
    yield "keyslot-float", "foreign key size", "an area key of 64.0 bytes", slot_field("area/key_size", 64.0)
    yield "keyslot-number", "bad object number", "slot 32", field("keyslots", {"32": keyslot()})
    yield "token-number", "bad object number", "01 beside 1", field("tokens/01", token())
    yield "no-token", "no ioflt token", "none at all", field("tokens", {})
    yield (
        "token-type",
        "no ioflt token",
        "only another program's",
        field("tokens/0", {"type": "x", "keyslots": []}),
    )
    yield "token-version", "unknown token version", "3", field("tokens/0/version", 3)
    yield "token-version-2", "unknown integrity", "version 2 without a kind", field("tokens/0/version", 2)
    other = tagged_token(integrity="crc32c")
    yield "token-integrity", "unknown integrity", "tags of another kind", field("tokens/0", other)
    plain = tagged_token(version=1)
    yield "token-tags-1", "bad token", "a kind of tags in version 1", field("tokens/0", plain)
    switched = tagged_token() | {"version": 1}
    del switched["integrity"]
    off = "wrapped key does not verify"
    yield "token-tags-off", off, "tags switched off by hand", field("tokens/0", switched)
    mixed = text_of(metadata() | {"tokens": {"0": token(), "1": tagged_token()}})
    yield "tokens-mixed", "tokens disagree", "with and without tags", headers(mixed)
    yield "token-field", "bad token", "one field more", field("tokens/0/thin", True)
    yield "token-missing", "bad token", "one field less", field("tokens/0/provider", None)
    yield "token-provisioning", "bad token", "neither thin nor thick", field("tokens/0/provisioning", "eager")
    yield "token-provider-empty", "bad token", "no provider", field("tokens/0/provider", "")
    yield "token-key-long", "bad token", "a key id of 1025 characters", field("tokens/0/key_id", "x" * 1025)
    yield (
        "token-key-control",
        "bad token",
        "an escape sequence as key id",
        field("tokens/0/key_id", "\x1b[2J"),
    )
    yield "token-surrogate", "bad token", "half a character", field("tokens/0/key_id", "\ud800")
    yield "token-base64", "bad token", "not base64", field("tokens/0/wrapped", "%%%%")
    yield (
        "token-base64-tail",
        "bad token",
        "base64 with stray bits",
        field("tokens/0/wrapped", b64(bytes(92))[:-2] + "B="),
    )
    yield (
        "token-short",
        "bad token",
        "a wrapped key shorter than a key",
        field("tokens/0/wrapped", b64(bytes(64))),
    )
    yield (
        "tokens-disagree",
        "tokens disagree",
        "thin and thick",
        changed(lambda found: found["tokens"].update({"1": token(thin=False)})),
    )
    yield "digest-none", "foreign digest", "none", field("digests", {})
    yield "digest-two", "foreign digest", "two", field("digests/1", metadata()["digests"]["0"])
    yield "digest-sha1", "foreign digest", "SHA-1", field("digests/0/hash", "sha1")
    yield "digest-rounds", "bad digest", "days of work", field("digests/0/iterations", 2**32)
    yield (
        "digest-keyslots",
        "bad digest",
        "names a slot that is not there",
        field("digests/0/keyslots", ["0"]),
    )
    yield "digest-short", "bad digest", "of 16 bytes", field("digests/0/digest", b64(bytes(16)))

    unwrap = "wrapped key does not verify"
    yield (
        "aad-thin",
        unwrap,
        "thick made thin: zeros would appear",
        field("tokens/0", token(thin=False) | {"provisioning": "thin"}),
    )
    yield "aad-uuid", unwrap, "the token of another container", field("tokens/0", token(uuid=OTHER_UUID))
    yield "aad-header-uuid", unwrap, "another UUID in the header", headers(text, uuid=OTHER_UUID.encode())
    yield "aad-provider", unwrap, "another provider", field("tokens/0/provider", "kms")
    yield "aad-key-id", unwrap, "another key id", field("tokens/0/key_id", "key-2")
    yield (
        "aad-shift",
        unwrap,
        "provider and key id joined elsewhere",
        field("tokens/0", token() | {"provider": "localk", "key_id": "ey-1"}),
    )
    yield (
        "wrapped-flip",
        unwrap,
        "one bit of the wrapped key",
        field("tokens/0/wrapped", b64(flipped(wrapped(), 40))),
    )
    yield (
        "wrong-digest",
        "wrong volume key",
        "the digest of another DEK",
        field("digests/0/digest", b64(bytes(32))),
    )

    lost = "no valid state block"
    yield "state-none", lost, "both slots are zero", states(b"", b"")
    yield "state-other", lost, "the block of another container", states(b"", state(uuid=OTHER_UUID))
    yield "state-length-flip", lost, "one bit of the length", states(b"", flipped(state(1, 5), 31))
    yield "state-mac-flip", lost, "one bit of the MAC", states(b"", flipped(state(1, 5), 64))
    yield "state-version", "unknown version", "a block of version 2", states(state(2, version=2), state())
    yield "state-flag", "unknown state flag", "bit 2", states(b"", state(flags=4))
    yield "state-wrong-slot", "state block in the wrong slot", "number 1 in slot 0", states(state(), b"")
    yield "state-length", "bad state block", "beyond the longest", states(b"", state(1, 2**63 - 2**20))
    yield "state-unflagged", "bad state block", "a length that is none", states(b"", state(1, 5, flags=0))
    yield "state-mark", "bad state block", "a mark inside a sector", states(b"", state(1, 9999, 100))
    yield "state-file-id", "bad state block", "a backing inode number", states(b"", state(file_id=5))
    yield "state-sequence", "bad state block", "2**64 - 1", states(b"", state(2**64 - 1))
    yield "state-tail", "non-zero padding", "bytes behind the MAC", states(b"", state(tail=b"x"))


SEGMENT = 4096
JOURNALS = 131072
HOT = hashlib.sha512(b"journal").digest() * (SEGMENT // 64)


def slot(
    sequence: int = 1,
    done: int = 0,
    hot: bytes = b"",
    *,
    magic: bytes = b"IOFLTrk\n",
    version: int = 1,
    flags: int = 0,
    uuid: str = UUID,
    future: str = OTHER_UUID,
    body: int = 3 * SEGMENT,
    segment: int = SEGMENT,
    hot_size: int | None = None,
    journal_hash: bytes | None = None,
    deks: bytes = DEK + NEW_DEK,
    tail: bytes = b"",
) -> bytes:
    if journal_hash is None:
        journal_hash = hashlib.sha256(hot).digest() if hot else bytes(32)
    uuids = bytes.fromhex(uuid.replace("-", "")) + bytes.fromhex(future.replace("-", ""))
    size = len(hot) if hot_size is None else hot_size
    head = struct.pack(
        ">8sIIQ32sQQQQq", magic, version, flags, sequence, uuids, body, segment, done, size, -1
    )
    head += journal_hash
    key = hkdf(deks, b"recrypt", uuids)
    return (head + hmac.digest(key, head, "sha256") + tail).ljust(4096, b"\0")


def recrypted(
    slots: tuple[bytes, bytes] | None = None,
    journals: tuple[bytes, bytes] = (b"", b""),
    *,
    found: Json | None = None,
) -> bytes:
    """A container's first MiB and the sidecar behind it."""
    area = headers(text_of(recrypting() if found is None else found))
    sidecar = bytearray(JOURNALS + 2 * SEGMENT)
    for index, made in enumerate((b"", slot()) if slots is None else slots):
        sidecar[65536 * index : 65536 * index + len(made)] = made
        start = JOURNALS + SEGMENT * index
        sidecar[start : start + len(journals[index])] = journals[index]
    return area + sidecar


def change_field(**fields: object) -> bytes:
    return recrypted(found=recrypting(recrypt_token(**fields)))


def with_slots(now: Json | None, to_be: Json) -> bytes:
    """A container with a passphrase slot, and one that it is to have."""
    digest = digest_of(NEW_DEK) | {"keyslots": ["0"]}
    found = recrypting(recrypt_token(slots={"0": to_be}, digest=digest))
    if now is not None:
        found["keyslots"] = {"0": now}
        found["digests"]["0"]["keyslots"] = ["0"]
    return recrypted(found=found)


def in_place() -> Iterator[Case]:
    first = {"slot": "1 0 0"}
    newer, older = slot(2, SEGMENT, HOT), slot(1)
    yield "begun", "ok", "nothing was rewritten yet", recrypted(), first
    yield (
        "hot",
        "ok",
        "the second segment is in the journal",
        recrypted((newer, older), (HOT, b"")),
        {"slot": f"2 {SEGMENT} {SEGMENT}"},
    )
    yield (
        "journal-torn",
        "ok",
        "the newer slot's journal is torn, so the older one counts",
        recrypted((newer, older), (HOT[:-1], b"")),
        first,
    )
    yield "slot-torn", "ok", "the newer slot is torn", recrypted((newer[:159], older), (HOT, b"")), first
    yield (
        "new-keyslot",
        "ok",
        "a passphrase slot over none of the present ones",
        with_slots(keyslot(), keyslot(32768 + 258048)),
        first,
    )
    yield "empty-body", "ok", "a file of no length", recrypted((b"", slot(body=0))), first

    yield "no-sidecar", "truncated recrypt slot", "the sidecar is gone", recrypted()[:BODY]
    yield "no-slot", "no valid recrypt slot", "zeros where the slots are", recrypted((b"", b""))
    flip = flipped(slot(), 75)
    yield "slot-flip", "no valid recrypt slot", "done was changed", recrypted((b"", flip))
    yield (
        "slot-old-key",
        "no valid recrypt slot",
        "MACed without the new DEK",
        recrypted((b"", slot(deks=DEK + DEK))),
    )
    yield (
        "slot-other",
        "no valid recrypt slot",
        "of another recrypt of the same container",
        recrypted((b"", slot(future=UUID))),
    )
    yield "slot-magic", "no valid recrypt slot", "another magic", recrypted((b"", slot(magic=b"IOFLTst\n")))
    yield "slot-version", "unknown version", "version 2", recrypted((b"", slot(version=2)))
    yield "slot-flag", "unknown recrypt flag", "a flag", recrypted((b"", slot(flags=1)))
    yield "slot-place", "recrypt slot in the wrong place", "1 in place 0", recrypted((slot(), b""))
    yield "slot-padding", "non-zero padding", "a byte behind the MAC", recrypted((b"", slot(tail=b"x")))
    yield "slot-sequence", "bad recrypt slot", "number 0", recrypted((slot(0), b""))
    yield "slot-segment", "bad recrypt slot", "no segment", recrypted((b"", slot(segment=0)))
    yield "slot-huge", "bad recrypt slot", "a huge segment", recrypted((b"", slot(segment=1 << 30)))
    yield (
        "slot-hot",
        "bad recrypt slot",
        "more in the journal than it holds",
        recrypted((b"", slot(hot_size=2 * SEGMENT, journal_hash=bytes(31) + b"x"))),
    )
    yield "slot-done", "bad recrypt slot", "behind the end", recrypted((b"", slot(done=4 * SEGMENT)))
    yield "slot-unaligned", "bad recrypt slot", "inside a sector", recrypted((b"", slot(done=512)))
    yield "slot-hash", "bad recrypt slot", "a hash of nothing", recrypted((b"", slot(journal_hash=HOT[:32])))
    yield (
        "journals-torn",
        "no valid recrypt journal",
        "both slots have another journal",
        recrypted((newer, slot(1, 0, HOT)), (b"", b"")),
    )

    yield "token-version", "unknown recrypt version", "version 2", change_field(version=2)
    yield "token-true", "bad recrypt token", "version true", change_field(version=True)
    yield "token-field", "bad recrypt token", "a field more", change_field(also=1)
    yield "token-keyslots", "bad recrypt token", "keyslots of its own", change_field(keyslots=["0"])
    yield "token-uuid", "bad recrypt token", "no UUID", change_field(uuid="x")
    yield "token-same-uuid", "bad recrypt state", "the UUID that it has", change_field(uuid=UUID)
    yield "token-none", "bad recrypt token", "no tokens", change_field(tokens=[])
    yield "token-foreign", "bad recrypt token", "a foreign one", change_field(tokens=[recrypt_token()])
    yield "token-digest", "bad recrypt token", "no digest", change_field(digest=None)
    yield (
        "digest-rounds",
        "bad digest",
        "a digest to be with absurd cost",
        change_field(digest=digest_of(NEW_DEK) | {"iterations": 1 << 40}),
    )
    yield (
        "digest-old",
        "wrong volume key",
        "the digest to be is of the old DEK",
        change_field(digest=digest_of(DEK)),
    )
    yield (
        "token-thick",
        "tokens disagree",
        "thin before, thick afterwards",
        change_field(tokens=[token(thin=False, uuid=OTHER_UUID, dek=NEW_DEK)]),
    )
    yield (
        "token-bound",
        "wrapped key does not verify",
        "the new DEK is bound to the old UUID",
        change_field(tokens=[token(dek=NEW_DEK)]),
    )
    yield (
        "slot-null-cipher",
        "null cipher",
        "a passphrase slot to be without encryption",
        with_slots(None, keyslot() | {"area": keyslot()["area"] | {"encryption": "cipher_null-ecb"}}),
    )
    yield "slots-overlap", "keyslots overlap", "over one that is", with_slots(keyslot(), keyslot())
    yield "not-begun", "no recrypt", "an ordinary header", recrypted(found=metadata())


def home(**fields: object) -> Json:
    found: Json = {
        "format": 1,
        "kind": "home",
        "home_id": UUID,
        "datastore_id": OTHER_UUID,
        "state": "encrypted",
        "key": {"provider": "local", "key_id": "key-1"},
        "names": [],
        "policy": "VM Encryption Policy",
        "thick": False,
        "operation": None,
    }
    return found | fields


def clear_home(**fields: object) -> Json:
    return home(state="clear", key=None, names=["web01"], policy="") | fields


KEY_1, KEY_2 = ({"provider": "local", "key_id": "key-1"}, {"provider": "kms", "key_id": "k" * 36})


def home2(**fields: object) -> Json:
    """A home in format 2."""
    found: Json = {
        "format": 2,
        "kind": "home",
        "home_id": UUID,
        "datastore_id": OTHER_UUID,
        "generation": 7,
        "state": "encrypted",
        "keys": [KEY_1],
        "names": [],
        "policy": "VM Encryption Policy",
        "thick": False,
        "clear_files": [],
        "operation": None,
    }
    return found | fields


def clear_home2(**fields: object) -> Json:
    return home2(state="clear", keys=[], names=["web01"], policy="") | fields


def recrypt(**fields: object) -> Json:
    found: Json = {
        "kind": "recrypt",
        "id": "99999999-8888-4777-8666-555555555555",
        "from": [KEY_1],
        "to": [KEY_2],
    }
    return home2(keys=[KEY_2, KEY_1], operation=found | fields)


def deep(**fields: object) -> Json:
    found: Json = {
        "kind": "deep",
        "id": "99999999-8888-4777-8666-555555555555",
        "from": [KEY_1],
        "to": [KEY_2],
        "mode": "copy",
        "pending": ["web01.vmx", "snap/delta.vmdk"],
        "current": {"path": "web01.vmdk", "uuid": UUID},
    }
    return home2(keys=[KEY_2, KEY_1], operation=found | fields)


def of_disk(**fields: object) -> Json:
    """A conversion of a disk, in a home in which a file is clear."""
    found: Json = {
        "kind": "encrypt-disk",
        "id": "99999999-8888-4777-8666-555555555555",
        "thick": False,
        "files": ["b.vmdk", "b-flat.vmdk"],
        "pending": ["b-flat.vmdk"],
        "current": None,
    }
    return home2(clear_files=["a.iso"], operation=found | fields)


def rename(**fields: object) -> Json:
    found: Json = {"kind": "rename", "from": "a.iso", "to": "tools/a.iso"}
    return home2(clear_files=["a.iso"], operation=found | fields)


def datastore(**fields: object) -> Json:
    found: Json = {
        "format": 1,
        "kind": "datastore",
        "datastore_id": OTHER_UUID,
        "default": "encrypted",
        "key": {"provider": "local", "key_id": "key-0"},
        "policy": "",
    }
    return found | fields


def operation(**fields: object) -> Json:
    found: Json = {
        "kind": "encrypt",
        "id": "99999999-8888-4777-8666-555555555555",
        "thick": True,
        "pending": ["web01.vmx", "snap/delta.vmdk"],
        "current": {"path": "web01.vmdk", "uuid": UUID},
    }
    return home(operation=found | fields)


def file_of(found: Json | bytes, label: str = "home-record", macs: int = 1) -> bytes:
    """The file; every key of a home of several keys is the one KEK."""
    payload = found if isinstance(found, bytes) else text_of(found)
    mac = b"mac " + b64encode(hmac.digest(hkdf(KEK, label.encode()), payload, "sha256")) + b"\n"
    return payload + b"\n" + mac * macs


def without(found: Json, name: str) -> Json:
    return {key: value for key, value in found.items() if key != name}


def record() -> Iterator[Case]:
    good, text = file_of(home()), text_of(home())
    yield "home-1", "ok", "an encrypted home of format 1", good
    yield "home-clear", "ok", "a clear home", file_of(clear_home(), "clear-home-record")
    renamed = clear_home(names=["web01", "web02"])
    yield "home-renamed", "ok", "a clear home while renamed", file_of(renamed, "clear-home-record")
    latin1 = clear_home(names=["B\udcfcro"])
    yield "home-latin1", "ok", "a name that is no UTF-8", file_of(latin1, "clear-home-record")
    yield "home-encrypting", "ok", "in the middle of vm encrypt", file_of(operation())
    decrypting = operation(kind="decrypt", thick=False, pending=[], current=None)
    yield "home-decrypting", "ok", "at the end of vm decrypt", file_of(decrypting)
    yield "datastore", "ok", "an encrypting datastore", file_of(datastore(), "datastore-record")
    yield (
        "datastore-clear",
        "ok",
        "a clear datastore",
        file_of(datastore(default="clear"), "datastore-record"),
    )

    yield "empty", "not two lines", "no byte", b""
    yield "one-line", "not two lines", "cut before the MAC", good.split(b"\n")[0] + b"\n"
    yield "no-newline", "not two lines", "the last byte is missing", good[:-1]
    yield "three-lines", "bad MAC line", "something behind the MAC", good + b"x\n"
    yield "no-end", "not two lines", "something behind the last line", good + b"x"
    yield "crlf", "bad MAC line", "through a text editor", good.replace(b"\n", b"\r\n")
    yield "mac-word", "bad MAC line", "another word", good.replace(b"\nmac ", b"\nMAC ")
    yield "mac-short", "bad MAC line", "31 bytes", text + b"\nmac " + b64encode(bytes(31)) + b"\n"
    yield "mac-none", "bad MAC line", "no base64", text + b"\nmac none\n"
    yield "mac-flip", "bad MAC", "one bit of the MAC", text + b"\nmac " + b64encode(bytes(32)) + b"\n"
    yield "flip", "bad MAC", "thin made thick", good.replace(b'"thick":false', b'"thick":true')
    yield (
        "label",
        "bad MAC",
        "a home's record under the label of clear homes",
        file_of(home(), "clear-home-record"),
    )
    yield (
        "clear-in-encrypted",
        "bad MAC",
        "a clear record under an encrypted home's key",
        file_of(clear_home()),
    )

    yield "latin1", "not UTF-8", "a lone 0xff", file_of(text.replace(b"local", b"\xff"))
    yield "cut", "bad JSON", "half an object", file_of(text[: len(text) // 2])
    yield "list", "not an object", "a list", file_of(b"[]")
    yield (
        "deep",
        "nested too deeply",
        "10000 levels",
        file_of(b'{"format":' + b"[" * 10000 + b"]" * 10000 + b"}"),
    )
    yield "duplicate", "duplicate key", "two states", file_of(text[:-1] + b',"state":"clear"}')
    yield "infinite", "absurd number", "Infinity", file_of(text.replace(b"false", b"Infinity"))
    yield "blank", "not canonical", "one blank", file_of(text.replace(b":1,", b": 1,"))
    yield "order", "not canonical", "kind first", file_of({"kind": "home"} | home())
    yield (
        "raw-utf8",
        "not canonical",
        "an unescaped letter",
        file_of(text.replace(b'"VM Enc', '"Ü Enc'.encode())),
    )

    yield "no-format", "no format version", "none", file_of(without(home(), "format"))
    yield "format-3", "missing field", "format 1 that says 3", file_of(home(format=3))
    yield "format-4", "unknown version", "4", file_of(home(format=4))
    yield "format-0", "unknown version", "0", file_of(home(format=0))
    yield "format-2", "missing field", "format 1 that says 2", file_of(home(format=2))
    yield "format-true", "no format version", "true is no number", file_of(home(format=True))
    yield "kind", "unknown kind", "a disk", file_of(home(kind="disk"))
    yield "datastore-as-home", "missing field", "a home that says datastore", file_of(home(kind="datastore"))
    yield "field-more", "unknown field", "one more", file_of(home(clear_disks=[]))
    yield "field-less", "missing field", "one less", file_of(without(home(), "operation"))
    yield "id", "bad uuid", "an id in braces", file_of(home(home_id="{" + UUID + "}"))
    yield "state", "bad field", "half encrypted", file_of(home(state="half"))
    yield "thick", "bad field", "1 for true", file_of(home(thick=1))
    yield (
        "key-long",
        "bad field",
        "a key id of 1025 characters",
        file_of(home(key={"provider": "a", "key_id": "k" * 1025})),
    )
    yield "key-text", "bad field", "no object", file_of(home(key="local:key-1"))
    yield "policy-escape", "bad field", "an escape sequence", file_of(home(policy="\x1b[2J"))
    yield "encrypted-no-key", "bad encrypted home", "no key", file_of(home(key=None))
    yield "encrypted-names", "bad encrypted home", "bound to a name", file_of(home(names=["web01"]))
    yield "clear-key", "bad clear home", "with a key", file_of(clear_home(key=home()["key"]))
    yield (
        "clear-operation",
        "bad clear home",
        "with an operation",
        file_of(operation() | {"state": "clear", "key": None, "names": ["a"]}),
    )
    yield "clear-nameless", "bad clear home", "for every name", file_of(clear_home(names=[]))
    yield "clear-three", "bad clear home", "three names", file_of(clear_home(names=["a", "b", "c"]))
    yield "name-dots", "bad name", "..", file_of(clear_home(names=[".."]))
    yield "name-slash", "bad name", "a path", file_of(clear_home(names=["a/b"]))
    yield "name-spelling", "bad name", "ä as two escaped bytes", file_of(clear_home(names=["\udcc3\udca4"]))
    yield "name-high", "bad name", "half a character", file_of(clear_home(names=["\ud800"]))
    yield "name-twice", "named twice", "the same name", file_of(clear_home(names=["a", "a"]))
    yield "operation-kind", "bad field", "recrypt in format 1", file_of(operation(kind="recrypt"))
    yield "pending-absolute", "bad path", "/etc/shadow", file_of(operation(pending=["/etc/shadow"]))
    yield "pending-up", "bad path", "a/../../b", file_of(operation(pending=["a/../../b"]))
    yield "pending-empty", "bad path", "a//b", file_of(operation(pending=["a//b"]))
    yield "pending-nul", "bad path", "a NUL", file_of(operation(pending=["a\0b"]))
    yield "pending-long", "bad path", "a part of 256 bytes", file_of(operation(pending=["x" * 256]))
    yield "pending-twice", "named twice", "the same file", file_of(operation(pending=["a", "a"]))
    yield "current-uuid", "bad uuid", "none", file_of(operation(current={"path": "a", "uuid": ""}))
    yield from record2()
    yield from record3()
    yield from datastore2()


def datastore2() -> Iterator[Case]:
    """Records of datastores of format 2."""
    label, keys = "datastore-record", [KEY_1, KEY_2]

    def made(macs: int = 1, **fields: object) -> bytes:
        return file_of(new_datastore(**fields), label, macs)

    operation = recrypt()["operation"]
    yield "2-datastore", "ok", "a datastore", made()
    yield "2-datastore-two-keys", "ok", "either of two keys opens", made(2, keys=keys)
    both = recrypt()["keys"]
    yield "2-datastore-recrypt", "ok", "new keys are being added", made(2, keys=both, operation=operation)
    dropping = made(keys=both[:1], operation=operation)
    yield "2-datastore-dropping", "ok", "old keys are going", dropping
    yield "2-datastore-mac-stripped", "not a MAC for each key", "one MAC of two", made(keys=keys)
    old = file_of(datastore(format=2), label)
    yield "2-datastore-key", "missing field", "a datastore of format 1 that says 2", old
    yield "2-datastore-generation", "bad field", "generation 0", made(generation=0)
    yield "2-datastore-no-key", "bad datastore", "none", made(keys=[])
    five = [{"provider": "local", "key_id": f"key-{number}"} for number in range(5)]
    yield "2-datastore-five", "bad datastore", "five keys", made(5, keys=five)
    converting = {"kind": "encrypt"}
    yield "2-datastore-encrypting", "missing field", "a conversion of a datastore", made(operation=converting)
    deep_one = {"kind": "deep", "id": UUID, "from": [KEY_1], "to": [KEY_2]}
    yield "2-datastore-deep", "bad field", "a deep recrypt of a datastore", made(operation=deep_one)
    yield "2-datastore-other-keys", "bad operation", "keys of neither side", made(operation=operation)
    flipped = made().replace(b'"encrypted"', b'"clear"')
    yield "2-datastore-flip", "bad MAC", "encrypting made clear", flipped
    yield "2-datastore-label", "bad MAC", "under the label of homes", file_of(new_datastore())


def new_datastore(**fields: object) -> Json:
    return {
        "format": 2,
        "kind": "datastore",
        "datastore_id": OTHER_UUID,
        "generation": 1,
        "default": "encrypted",
        "keys": [{"provider": "local", "key_id": "key-0"}],
        "policy": "",
        "operation": None,
    } | fields


def record3() -> Iterator[Case]:
    """Homes of format 3, which adds one field."""
    tagged = {"format": 3, "integrity": True}
    yield "3-home", "ok", "an encrypted home whose files have tags", file_of(home2() | tagged)
    yield "3-without", "missing field", "format 3 without its field", file_of(home2(format=3))
    yield (
        "3-false",
        "bad field",
        "what format 2 says as well",
        file_of(home2() | tagged | {"integrity": False}),
    )
    yield "3-number", "bad field", "1 is not true", file_of(home2() | tagged | {"integrity": 1})
    yield "3-in-2", "unknown field", "the field in format 2", file_of(home2(integrity=True))
    clear = file_of(clear_home2() | tagged, "clear-home-record")
    yield "3-clear", "bad clear home", "tags without a key", clear
    label = "datastore-record"
    yield "3-datastore", "unknown version", "a datastore has none", file_of(datastore(format=3), label)


def record2() -> Iterator[Case]:
    """Homes of format 2, in which the rules above hold as well."""
    clear_label, two = "clear-home-record", home2(keys=[KEY_1, KEY_2])
    good, good_two = file_of(home2()), file_of(two, macs=2)
    four = [{"provider": "local", "key_id": f"key-{number}"} for number in range(5)]
    converting = operation(kind="decrypt", thick=False)["operation"]
    yield "home", "ok", "an encrypted home", good
    yield "2-clear", "ok", "a clear home", file_of(clear_home2(), clear_label)
    yield "2-two-keys", "ok", "either of two keys opens", good_two
    yield "2-clear-files", "ok", "two files stay clear", file_of(home2(clear_files=["a.iso", "b/c.log"]))
    yield "2-decrypting", "ok", "in the middle of vm decrypt", file_of(home2(operation=converting))
    yield "2-recrypt", "ok", "new tokens are being added", file_of(recrypt(), macs=2)
    dropping = recrypt() | {"keys": [KEY_2]}
    yield "2-recrypt-dropping", "ok", "old tokens are going", file_of(dropping)
    adding = recrypt(**{"from": [], "to": [KEY_1, KEY_2]}) | {"keys": [KEY_1, KEY_2]}
    yield "2-recrypt-adding", "ok", "a key is added, none goes", file_of(adding, macs=2)
    yield "2-deep", "ok", "in the middle of a deep recrypt", file_of(deep(), macs=2)
    same = deep(**{"from": [], "to": [KEY_1]}, mode="journal", current=None) | {"keys": [KEY_1]}
    yield "2-deep-same-key", "ok", "a deep recrypt in place under the same KEK", file_of(same)
    clearing = of_disk(kind="decrypt-disk", current={"path": "b-flat.vmdk", "uuid": UUID})
    yield "2-disk-decrypting", "ok", "in the middle of vm decrypt --disk", file_of(clearing)
    yield "2-disk-encrypting", "ok", "vm encrypt --disk was just begun", file_of(of_disk())
    yield "2-rename", "ok", "a clear file is being renamed", file_of(rename())
    over = rename(**{"from": "x", "to": "a.iso"})
    yield "2-rename-over", "ok", "an encrypted file takes a clear one's name", file_of(over)

    moving = {"kind": "move", "id": UUID, "home_id": OTHER_UUID, "datastore_id": UUID}
    yield "2-move", "ok", "an encrypted home that was copied elsewhere", file_of(home2(operation=moving))
    clear_moving = file_of(clear_home2(operation=moving), clear_label)
    yield "2-move-clear", "ok", "a clear home that was copied elsewhere", clear_moving
    nowhere = home2(operation=without(moving, "datastore_id"))
    yield "2-move-nowhere", "missing field", "without the other datastore", file_of(nowhere)
    to_path = home2(operation=moving | {"home_id": "/srv/ds/web"})
    yield "2-move-path", "bad uuid", "to a path", file_of(to_path)
    cut_off = file_of(clear_home2(operation=recrypt()["operation"]), clear_label)
    yield "2-clear-recrypt", "bad clear home", "a recrypt of a clear home", cut_off

    macs = "not a MAC for each key"
    yield "2-mac-stripped", macs, "one MAC of two", file_of(two)
    yield "2-mac-more", macs, "two MACs of one key", file_of(home2(), macs=2)
    yield "2-clear-mac-more", macs, "two MACs of a clear home", file_of(clear_home2(), clear_label, 2)
    yield "2-mac-many", "not two lines", "more MACs than there can be keys", file_of(home2(), macs=12)
    yield "1-mac-more", macs, "format 1 with two MACs", file_of(home(), macs=2)
    removed = good_two.replace(b"," + text_of(KEY_2), b"")
    cut = b"\n".join(removed.split(b"\n")[:2]) + b"\n"
    yield "2-key-removed", "bad MAC", "one key and its MAC taken away", cut
    added = good.replace(text_of(KEY_1), text_of(KEY_1) + b"," + text_of(KEY_2))
    yield "2-key-added", "bad MAC", "one key more, with a MAC copied", added + good.split(b"\n")[1] + b"\n"
    back = good.replace(b'"generation":7', b'"generation":8')
    yield "2-generation-flip", "bad MAC", "another generation", back
    yield "2-field-1", "unknown field", "the key of format 1", file_of(home2(key=KEY_1))
    yield "1-field-2", "unknown field", "the generation of format 2", file_of(home(generation=7))
    yield "2-generation-0", "bad field", "that of format 1", file_of(home2(generation=0))
    yield "2-generation-true", "bad field", "true is no number", file_of(home2(generation=True))
    yield "2-generation-high", "bad field", "2**63", file_of(home2(generation=2**63))
    yield "2-keys-none", "bad encrypted home", "no key", file_of(home2(keys=[]))
    yield "2-keys-five", "bad encrypted home", "five keys", file_of(home2(keys=four), macs=5)
    yield "2-keys-twice", "named twice", "the same key", file_of(home2(keys=[KEY_1, KEY_1]), macs=2)
    yield "2-keys-text", "bad field", "no list", file_of(home2(keys="local:key-1"))
    yield "2-clear-key", "bad clear home", "with a key", file_of(clear_home2(keys=[KEY_1]), clear_label)
    listed = clear_home2(clear_files=["a"])
    yield "2-clear-listed", "bad clear home", "with a list of clear files", file_of(listed, clear_label)
    yield "2-clear-files-up", "bad path", "../a", file_of(home2(clear_files=["../a"]))
    yield "2-clear-files-twice", "named twice", "one twice", file_of(home2(clear_files=["a", "a"]))
    bad = "bad operation"
    yield "2-recrypt-nothing", bad, "to no key", file_of(recrypt(to=[]) | {"keys": [KEY_1]})
    yield "2-recrypt-both", bad, "a key that comes and goes", file_of(recrypt(to=[KEY_1, KEY_2]), macs=2)
    yield "2-recrypt-keys", bad, "the home's key is another", file_of(recrypt() | {"keys": [KEY_1]})
    turned = recrypt() | {"keys": [KEY_1, KEY_2]}
    yield "2-recrypt-order", bad, "the old key first", file_of(turned, macs=2)
    yield "2-recrypt-five", bad, "to five keys", file_of(recrypt(to=four) | {"keys": four}, macs=5)
    yield "2-recrypt-pending", "unknown field", "a list of files", file_of(recrypt(pending=[]), macs=2)
    yield "2-deep-mode", "bad field", "another mode", file_of(deep(mode="fast"), macs=2)
    yield "2-deep-pending", "bad path", "above the home", file_of(deep(pending=["../a"]), macs=2)
    yield "2-operation-kind", "bad field", "rot13", file_of(recrypt(kind="rot13"), macs=2)
    yield "2-disk-listed", bad, "a file that is clear, too", file_of(of_disk(files=["b.vmdk", "a.iso"]))
    yield "2-disk-none", bad, "no files", file_of(of_disk(files=[], pending=[]))
    yield "2-disk-pending", bad, "a pending file more", file_of(of_disk(pending=["b.vmdk", "c.vmdk"]))
    yield "2-disk-up", "bad path", "above the home", file_of(of_disk(files=["b.vmdk", "../c"]))
    yield "2-disk-twice", "named twice", "one file twice", file_of(of_disk(files=["b.vmdk", "b.vmdk"]))
    whole = without(of_disk()["operation"], "files")
    yield "2-disk-whole", "missing field", "no list of files", file_of(home2(operation=whole))
    listing = file_of(home2(operation=converting | {"files": ["web01.vmx"]}))
    yield "2-decrypting-files", "unknown field", "a list of files without -disk", listing
    yield "1-disk", "bad field", "vm encrypt --disk in format 1", file_of(operation(kind="encrypt-disk"))
    yield "2-rename-same", bad, "to the same name", file_of(rename(to="a.iso"))
    yield "2-rename-below", bad, "into itself", file_of(rename(to="a.iso/b"))
    yield "2-rename-up", "bad path", "out of the home", file_of(rename(to="../a.iso"))
    yield "2-rename-id", "unknown field", "an id", file_of(rename(id=UUID))
    listed = home2(clear_files=["a.iso"], operation=None)
    more = file_of(listed).replace(b'"a.iso"]', b'"a.iso","b.vmdk"]')
    yield "2-clear-files-flip", "bad MAC", "one more clear file", more


def vectors() -> Iterator[tuple[str, Vector]]:
    """(folder, vector)."""
    digest = hashlib.sha256(DEK).hexdigest()
    for name, expect, comment, body, *values in luks2():
        head = {"expect": expect, "comment": comment, "kek": KEK.hex()}
        if expect == "ok":
            head |= {"dek": digest, "sequence": "1"} | (values[0] if values else {})
        yield "luks2", Vector(name, head | {"body": "zlib base64"}, body)
    for name, expect, comment, body, *values in in_place():
        head = {"expect": expect, "comment": comment, "kek": KEK.hex()}
        if expect == "ok":
            head |= {"dek": digest, "new-dek": hashlib.sha256(NEW_DEK).hexdigest()} | values[0]
        yield "recrypt", Vector(name, head | {"body": "zlib base64"}, body)
    for name, expect, comment, body, *_ in record():
        yield "record", Vector(name, {"expect": expect, "comment": comment, "kek": KEK.hex()}, body)


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    made: dict[str, dict[str, Vector]] = {"luks2": {}, "recrypt": {}, "record": {}}
    for folder, vector in vectors():
        if vector.name in made[folder]:
            raise SystemExit(f"two vectors {folder}/{vector.name}")
        made[folder][vector.name] = vector
    if arguments:
        there = {folder: {vector.name: vector for vector in read(ROOT / folder)} for folder in made}
        return 0 if there == made else 1
    for folder, named in made.items():
        (ROOT / folder).mkdir(exist_ok=True)
        for old in (ROOT / folder).iterdir():
            old.unlink()
        for vector in named.values():
            (ROOT / folder / vector.name).write_bytes(to_bytes(vector))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
