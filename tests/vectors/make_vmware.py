"""Writes the vectors of keysafe, vmx, vmdk and ovf: one function per folder, one line or so per vector.

Shares no code with `ioflt.format` or `ioflt.crypto`; bytes are made here with the standard library and
PyCryptodome. Everything is fixed, no randomness.

    python tests/vectors/make_vmware.py            write
    python tests/vectors/make_vmware.py --check    compare with what is there, exit 1 on a difference
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from Crypto.Cipher import AES

from ioflt.testing.vectors import Vector, read, to_bytes

ROOT = Path(__file__).resolve().parent
PACKED = {"body": "zlib base64"}


def vector(name: str, expect: str, comment: str, body: str | bytes, **headers: str) -> Vector:
    data = body.encode() if isinstance(body, str) else body
    packed = PACKED if len(data) > 8192 else {}
    return Vector(name, {"expect": expect, "comment": comment, **headers, **packed}, data)


# Key safes

PHRASE = "phrase/AAECAwQFBgc%3d/pass2key%3dPBKDF2%2dHMAC%2dSHA%2d1"
FQID = "fqid/<VMWARE-NULL>/KMS/a4e7494f%2dda55"
BOX = "HMAC%2dSHA%2d256,AAEC"


def keysafe() -> Iterator[Vector]:
    def ok(name: str, comment: str, text: str, canonical: str = "") -> Vector:
        return vector(name, "ok", comment, text, **({"canonical": canonical} if canonical else {}))

    def bad(name: str, expect: str, comment: str, text: str | bytes) -> Vector:
        return vector(name, expect, comment, text)

    good = f"vmware:key/list/(pair/({PHRASE},{BOX}),pair/({FQID},{BOX}))"
    yield ok("two-pairs", "a phrase pair and a key pair", good)
    yield ok(
        "case",
        "prefix and types are taken in any case",
        good.replace("vmware:key/list", "VMware:KEY/List"),
        good,
    )
    yield ok("hex-case", "escapes are taken in upper case", good.replace("%3d", "%3D"), good)
    yield ok(
        "null-escaped",
        "the null word is taken escaped",
        good.replace("<VMWARE-NULL>", "%3cVMWARE%2dNULL%3e"),
        good,
    )
    nested = f"vmware:key/list/(pair/(list/({FQID},{PHRASE}),{BOX}))"
    yield ok("inner-list", "a pair locked by either of two keys", nested)
    for name, locator in {
        "ldap": "ldap/<VMWARE-NULL>/host/<VMWARE-NULL>/636/TRUE/dc%3dx",
        "script": "script/<VMWARE-NULL>/bin%2fkey/c2ln",
        "role": "role/<VMWARE-NULL>/adminIdent",
        "rawkey": "rawkey/type%3dkey",
        "null": "null/%3cVMWARE%2dEMPTYSTRING%3e",
    }.items():
        yield ok(name, f"a pair locked by a {name} locator", f"vmware:key/list/(pair/({locator},{BOX}))")
    long_id = "%2b" * 256
    yield ok(
        "long-key-id", "a key id of 256 characters", f"vmware:key/list/(pair/(fqid/x/local/{long_id},{BOX}))"
    )

    yield bad("empty", "bad prefix", "nothing", "")
    yield bad("no-prefix", "bad prefix", "the prefix is missing", good.removeprefix("vmware:key/"))
    yield bad("not-a-list", "not a key safe", "a bare pair", f"vmware:key/pair/({FQID},{BOX})")
    yield bad("not-pairs", "not a key safe", "a list of keys", f"vmware:key/list/({FQID})")
    yield bad("unknown-type", "unknown locator", "a type that is none", good.replace("fqid", "fqdn"))
    yield bad("escape-zz", "bad escape", "%zz", good.replace("%3d", "%zz", 1))
    yield bad(
        "escape-cut", "bad escape", "% and one digit at a field's end", good.replace("a4e7494f%2dda55", "a%2")
    )
    yield bad("not-utf8", "not UTF-8", "a key id of a lone continuation byte", good.replace("%2dda55", "%80"))
    yield bad("empty-field", "empty field", "a key without id", good.replace("a4e7494f%2dda55", ""))
    yield bad(
        "null-phrase-id",
        "null field",
        "a phrase's id may not be null",
        good.replace("AAECAwQFBgc%3d", "<VMWARE-NULL>"),
    )
    yield bad("open-paren", "unbalanced", "the last parenthesis is missing", good[:-1])
    yield bad("close-paren", "trailing data", "one parenthesis too many", good + ")")
    yield bad("empty-list", "unknown locator", "a list of nothing", "vmware:key/list/()")
    yield bad("list-bare", "unbalanced", "a list without parentheses", f"vmware:key/list/pair/({FQID},{BOX})")
    yield bad(
        "trailing-slash", "missing field", "one field too many in a key", good.replace("%2dda55", "/more")
    )
    yield bad("pair-short", "missing field", "a pair without data", good.replace(",AAEC))", "))"))
    yield bad(
        "fqid-short",
        "missing field",
        "a key without provider",
        good.replace("<VMWARE-NULL>/KMS/", "<VMWARE-NULL>/"),
    )
    yield bad("base64-chars", "bad base64", "locked data with a star", good.replace("AAEC", "AAE%2a"))
    yield bad(
        "base64-loose",
        "bad base64",
        "locked data with stray bits in its padding",
        good.replace("AAEC", "AB%3d%3d"),
    )
    yield bad("port", "bad port", "port 65536", f"vmware:key/list/(pair/(ldap/x/h/d/65536/TRUE/p,{BOX}))")
    yield bad(
        "flag",
        "bad flag",
        "a flag that is neither TRUE nor FALSE",
        f"vmware:key/list/(pair/(ldap/x/h/d/1/yes/p,{BOX}))",
    )
    yield bad(
        "role-unknown", "unknown role", "a role that is none", f"vmware:key/list/(pair/(role/x/root,{BOX}))"
    )
    bomb = "vmware:key/" + "list/(" * 5000 + FQID + ")" * 5000
    yield bad("nesting", "nested too deep", "five thousand lists in one another", bomb)
    nine = "vmware:key/" + "list/(" * 9 + FQID + ")" * 9
    yield bad("nesting-nine", "nested too deep", "nine lists, one more than allowed", nine)
    many = ",".join([f"pair/({FQID},{BOX})"] * 17)
    yield bad("many-pairs", "too many pairs", "seventeen pairs", f"vmware:key/list/({many})")
    yield bad("too-large", "too large", "64 KiB and more", good.replace("AAEC", "A" * 65536))


# Sealed VMX files

PLAIN = b"""config.version = "8"
virtualHW.version = "13"
memsize = "512"
scsi0:0.fileName = "disk.vmdk"
dataFileKey = "type=key:cipher=AES-256:key=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8%3d"
"""
CONFIG_KEY = bytes((7 * i + 1) % 256 for i in range(32))
LONG_KEY = bytes((11 * i + 5) % 256 for i in range(64))
PHRASE_SALT, SAFE_IV, DATA_IV = bytes(range(16, 32)), bytes(range(32, 48)), bytes(range(48, 64))
WRAPPING = hashlib.sha256(b"ioflt vectors: vmx wrapping key").digest()
FILE_ID = (1 << 62) + 5


def b64(data: bytes) -> str:
    return b64encode(data).decode()


def esc(text: str) -> str:
    return re.sub("[^0-9A-Za-z]", lambda match: f"%{ord(match[0]):02x}", text)


def seal(key: bytes, iv: bytes, plain: bytes, mac: str, padding: bytes | None = None) -> bytes:
    digest, size = {
        "HMAC-SHA-1": ("sha1", 20),
        "HMAC-SHA-1-128": ("sha1", 16),
        "HMAC-SHA-256": ("sha256", 32),
    }[mac]
    if padding is None:
        count = 16 - len(plain) % 16
        padding = bytes([count]) * count
    body = AES.new(key[:32], AES.MODE_CBC, iv=iv).encrypt(plain + padding)
    return iv + body + hmac.digest(key, plain, digest)[:size]


def key_dict(key: bytes, cipher: str = "AES-256") -> bytes:
    return f"type=key:cipher={cipher}:key={b64(key).replace('=', '%3d')}".encode()


def phrase_vmx(
    *,
    hash_name: str = "SHA-1",
    mac: str = "HMAC-SHA-1",
    cipher: str = "AES-256",
    rounds: str = "1000",
    key: bytes = CONFIG_KEY,
    clear: str = "",
    plain: bytes = PLAIN,
    inner: bytes | None = None,
) -> str:
    length = {"AES-256": 32, "XTS-AES-256": 64}.get(cipher, 32)
    count = min(int(rounds), 10000) if rounds.isdecimal() and int(rounds) else 1
    digest = {"SHA-256": "sha256"}.get(hash_name, "sha1")
    phrase_key = hashlib.pbkdf2_hmac(digest, b"ioflt-pass", PHRASE_SALT, count, length)
    salt = b64(PHRASE_SALT).replace("=", "%3d")
    derivation = f"pass2key=PBKDF2-HMAC-{hash_name}:cipher={cipher}:rounds={rounds}:salt={salt}"
    known = mac if mac.startswith("HMAC-SHA") else "HMAC-SHA-1"
    locked = seal(phrase_key, SAFE_IV, inner or key_dict(key, cipher), known)
    phrase = f"phrase/{esc(b64(bytes(range(8))))}/{esc(derivation)}"
    safe = f"vmware:key/list/(pair/({phrase},{esc(mac)},{esc(b64(locked))}))"
    return clear + vmx_lines(safe, seal(key, DATA_IV, plain, known))


def vmx_lines(safe: str, data: bytes) -> str:
    return f'encryption.keySafe = "{safe}"\nencryption.data = "{b64(data)}"\n'


def own_vmx(
    plain: bytes = PLAIN,
    *,
    name: str = "",
    file_id: int = FILE_ID,
    bound_id: int = FILE_ID,
    length: int | None = None,
    padding: bytes | None = None,
    mac: str = "HMAC-SHA-256",
) -> str:
    safe_key = hmac.digest(WRAPPING, b"ioflt/1\0vmx-file\0" + bound_id.to_bytes(8, "big") + b"\x01", "sha256")
    locked = seal(safe_key, SAFE_IV, key_dict(CONFIG_KEY), mac)
    safe = f"vmware:key/list/(pair/(fqid/<VMWARE-NULL>/local/key%2d1,{esc(mac)},{esc(b64(locked))}))"
    head = '.encoding = "UTF-8"\n' + (f'displayName = "{name}"\n' if name else "")
    head += f'ioflt.file = "id={file_id}:length={len(plain) if length is None else length}"\n'
    return head + vmx_lines(safe, seal(CONFIG_KEY, DATA_IV, plain, mac, padding))


def vmx() -> Iterator[Vector]:
    def phrase(
        name: str, expect: str, comment: str, body: str, *, word: str = "ioflt-pass", plain: bytes = PLAIN
    ) -> Vector:
        return vector(
            name,
            expect,
            comment,
            body,
            form="passphrase",
            passphrase=word,
            plain=hashlib.sha256(plain).hexdigest(),
        )

    def own(name: str, expect: str, comment: str, body: str | bytes, plain: bytes = PLAIN) -> Vector:
        return vector(
            name,
            expect,
            comment,
            body,
            form="ioflt",
            wrapping=WRAPPING.hex(),
            plain=hashlib.sha256(plain).hexdigest(),
        )

    yield phrase("phrase-sha1", "ok", "as Workstation and VMwareVMX write it", phrase_vmx(rounds="10000"))
    yield phrase(
        "phrase-sha256", "ok", "SHA-256 throughout", phrase_vmx(hash_name="SHA-256", mac="HMAC-SHA-256")
    )
    yield phrase(
        "phrase-xts", "ok", "64-byte keys, called XTS", phrase_vmx(cipher="XTS-AES-256", key=LONG_KEY)
    )
    yield phrase("phrase-short-mac", "ok", "HMAC-SHA-1 cut to 16 bytes", phrase_vmx(mac="HMAC-SHA-1-128"))
    named = '.encoding = "UTF-8"\ndisplayName = "web01"\n'
    clear = named + 'encryptedVM.guid = "{00}"\nvmx.encryptionType = "partial"\n'
    merged = named.encode() + PLAIN
    yield phrase(
        "phrase-merged",
        "ok",
        "clear lines come back, the encryption's own do not",
        phrase_vmx(clear=clear),
        plain=merged,
    )
    yield phrase("phrase-wrong", "wrong passphrase", "another passphrase", phrase_vmx(), word="ioflt-pasS")
    yield phrase(
        "phrase-pass2key", "unknown pass2key", "a derivation that is none", phrase_vmx(hash_name="MD5")
    )
    yield phrase("phrase-cipher", "unknown cipher", "a cipher that is none", phrase_vmx(cipher="AES-128"))
    yield phrase("phrase-mac", "unknown MAC", "a MAC that is none", phrase_vmx(mac="CRC-32"))
    yield phrase("phrase-rounds", "too many rounds", "an hour of derivation", phrase_vmx(rounds="4000000000"))
    yield phrase("phrase-no-rounds", "bad rounds", "no round at all", phrase_vmx(rounds="0"))
    yield phrase(
        "phrase-short-key",
        "bad key length",
        "a config key of 31 bytes",
        phrase_vmx(inner=key_dict(CONFIG_KEY[:31])),
    )
    yield phrase(
        "phrase-no-key",
        "not a key",
        "the locked data is no key",
        phrase_vmx(inner=b"type=none:cipher=AES-256:key=AA=="),
    )
    yield phrase(
        "phrase-no-cipher",
        "missing name",
        "the locked key names no cipher",
        phrase_vmx(inner=b"type=key:key=AAAA"),
    )
    yield phrase("phrase-none", "no passphrase pair", "only a key of a provider opens it", own_vmx())
    flipped = phrase_vmx().replace("MDEyMzQ1", "MDEyMzQ2")
    yield phrase("phrase-flipped", "sealed box does not verify", "the IV of the data is changed", flipped)

    for name, plain in {
        "own": PLAIN,
        "own-empty": b"",
        "own-nuls": b"a\0\xff\r\n\0\0",
        "own-block": bytes(16),
    }.items():
        yield own(name, "ok", f"{len(plain)} bytes sealed by ioflt", own_vmx(plain), plain)
    yield own("own-name", "ok", "with the name in clear", own_vmx(name="web|2201"))
    yield own(
        "own-unpadded-0",
        "sealed box does not verify",
        "padding of zeros",
        own_vmx(padding=bytes(16 - len(PLAIN) % 16)),
    )
    yield own(
        "own-padding-17",
        "sealed box does not verify",
        "padding longer than a block",
        own_vmx(bytes(16), padding=b"\x11" * 16),
    )
    count = 16 - len(PLAIN) % 16
    mixed = bytes([count ^ 1]) + bytes([count]) * (count - 1)
    yield own(
        "own-padding-mixed", "sealed box does not verify", "padding bytes that differ", own_vmx(padding=mixed)
    )
    yield own(
        "own-other-file",
        "sealed box does not verify",
        "the content of another file of the home",
        own_vmx(bound_id=FILE_ID + 1),
    )
    yield own(
        "own-longer", "length does not verify", "the clear length is changed", own_vmx(length=len(PLAIN) + 1)
    )
    yield own(
        "own-no-file", "no file line", "the clear line is missing", re.sub("ioflt.file.*\n", "", own_vmx())
    )
    yield own("own-file-sign", "bad file line", "a negative length", own_vmx(length=-1))
    yield own(
        "own-file-zeros", "bad file line", "leading zeros in the id", own_vmx().replace("id=4", "id=04")
    )
    yield own("own-file-id", "bad file line", "an id of more than 64 bits", own_vmx(file_id=1 << 64))
    yield own("own-file-huge", "bad file line", "a length over 1 MiB", own_vmx(length=(1 << 20) + 1))
    yield own(
        "own-no-safe",
        "no key safe",
        "the key safe is missing",
        re.sub("encryption.keySafe.*\n", "", own_vmx()),
    )
    yield own(
        "own-no-data",
        "no encryption data",
        "the data is missing",
        re.sub("encryption.data.*\n", "", own_vmx()),
    )
    yield own("own-data-base64", "bad base64", "the data ends in a star", own_vmx()[:-2] + '*"\n')
    yield own(
        "own-data-short",
        "sealed box does not verify",
        "data of one block",
        re.sub('data = ".*"', 'data = "AAAA"', own_vmx()),
    )
    yield own("own-mac", "foreign key safe", "a pair with SHA-1", own_vmx(mac="HMAC-SHA-1"))
    yield own(
        "own-provider",
        "bad key reference",
        "a provider of 200 characters",
        own_vmx().replace("/local/", f"/{'x' * 200}/"),
    )
    yield own("own-plain", "no encryption data", "a VMX that is not sealed", PLAIN)
    yield own("own-nothing", "no encryption data", "an empty file", b"")
    yield own(
        "own-too-large", "too large", "clear text of 2 MiB behind the data", own_vmx() + "#" * (2 << 20)
    )


# VMDK descriptors and sparse headers

DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=1a2b3c4d
parentCID=ffffffff
createType="vmfs"

# Extent description
RW 20480 VMFS "web01-flat.vmdk"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.virtualHWVersion = "13"
"""
EXTENT = 'RW 20480 VMFS "web01-flat.vmdk"'


def sparse_header(**changes: int | bytes) -> bytes:
    fields: dict[str, Any] = {
        "magic": b"KDMV", "version": 1, "flags": 3, "capacity": 20480, "grain": 128, "place": 1, "size": 2,
        "entries": 512, "redundant": 21, "directory": 26, "overhead": 128, "unclean": 0,
        "ends": b"\n \r\n", "method": 0,
    }  # fmt: skip
    fields.update(changes)
    return struct.pack("<4sIIQQQQIQQQB4sH433x", *fields.values())


def vmdk() -> Iterator[Vector]:
    def text(name: str, expect: str, comment: str, body: str | bytes) -> Vector:
        return vector(name, expect, comment, body, kind="descriptor", own="web01.vmdk")

    def extent(name: str, expect: str, comment: str, line: str) -> Vector:
        return text(name, expect, comment, DESCRIPTOR.replace(EXTENT, line))

    def header(name: str, expect: str, comment: str, **changes: int | bytes) -> Vector:
        body = sparse_header(**changes) + DESCRIPTOR.encode().ljust(1024, b"\0")
        return vector(name, expect, comment, body, kind="sparse", own="")

    yield text("vmfs", "ok", "as ESXi writes it", DESCRIPTOR)
    yield text("crlf", "ok", "with the line ends of a Windows host", DESCRIPTOR.replace("\n", "\r\n"))
    yield text("padded", "ok", "padded with NULs", DESCRIPTOR.encode() + bytes(512))
    shorter = DESCRIPTOR.replace("1a2b3c4d", "4d")
    yield text("cid-shorter", "ok", "QEMU wrote a shorter CID", f"{shorter}\0{shorter[-5:]}")
    yield text(
        "unknown-key",
        "ok",
        "a header key from the future",
        DESCRIPTOR.replace("version=1\n", 'version=1\nnew="x"\n'),
    )
    child = 'parentCID=12345678\nparentFileNameHint="web01-0.vmdk"'
    yield text(
        "child", "ok", "a snapshot with its parent beside it", DESCRIPTOR.replace("parentCID=ffffffff", child)
    )
    yield extent("flat-offset", "ok", "a flat extent with offset", 'RW 20480 FLAT "web01-flat.vmdk" 63')
    yield extent("zero", "ok", "an extent of zeros beside another", f"{EXTENT}\nRW 10 ZERO")
    yield extent("spaces", "ok", "a name with blanks", 'RW 20480 VMFS "web 01-flat.vmdk"')

    confined = "extent name not confined"
    for name, path in {
        "parent-dirs": "../../etc/shadow", "absolute": "/etc/shadow", "sub-directory": "disks/a.vmdk",
        "windows": "..\\\\shadow", "drive": "C:flat.vmdk", "dot": ".", "dot-dot": "..", "empty-name": "",
        "own-name": "web01.vmdk", "long-name": "x" * 256, "control": "web\x0101",
        "device": "\\\\.\\PhysicalDrive0",
        "vsan": "vsan://11111111-2222",
    }.items():  # fmt: skip
        yield extent(f"extent-{name}", confined, f"an extent called {path[:40]!r}", f'RW 20480 VMFS "{path}"')
    hint = 'parentFileNameHint="../base/web01.vmdk"\nparentCID=12345678'
    yield text(
        "parent-outside",
        "parent name not confined",
        "a parent elsewhere",
        DESCRIPTOR.replace("parentCID=ffffffff", hint),
    )
    track = 'version=1\nchangeTrackPath="/etc/shadow"'
    yield text(
        "track-outside",
        "change track name not confined",
        "a change tracking file elsewhere",
        DESCRIPTOR.replace("version=1", track),
    )
    overflow = "sector count overflow"
    yield extent("sectors-2-63", overflow, "2^63 sectors", f'RW {1 << 63} VMFS "a"')
    yield extent("sectors-bytes", overflow, "2^63 bytes", f'RW {(1 << 54) + 1} VMFS "a"')
    yield extent(
        "sectors-sum", overflow, "two extents of 2^62 bytes and more", f'RW {1 << 54} VMFS "a"\nRW 1 VMFS "b"'
    )
    yield extent("sectors-offset", overflow, "an offset of 2^63 bytes", f'RW 1 FLAT "a" {1 << 54}')
    yield extent("sectors-digits", "odd line", "a count of thirty digits", f'RW {"9" * 30} VMFS "a"')
    yield extent("sectors-sign", "odd line", "a negative count", 'RW -1 VMFS "a"')
    yield extent("access", "odd line", "an access that is none", 'RX 20480 VMFS "web01-flat.vmdk"')
    yield extent("quote", "odd line", "a name without its second quote", 'RW 20480 VMFS "web01-flat.vmdk')
    yield extent("kind", "unknown extent type", "a device", 'RW 20480 VMFSRDM "web01-rdm.vmdk"')
    yield extent(
        "flat-no-offset", "bad extent", "a flat extent without offset", 'RW 20480 FLAT "web01-flat.vmdk"'
    )
    yield extent("zero-name", "bad extent", "zeros from a file", 'RW 20480 ZERO "web01-flat.vmdk"')
    yield extent("no-name", "bad extent", "an extent without file", "RW 20480 VMFS")
    yield extent("none", "no extents", "no extent at all", "")
    yield extent("many", "too many extents", "65,537 extents", "RW 1 ZERO\n" * 65537)
    yield text("garbage", "odd line", "a line of something else", DESCRIPTOR + "hello\n")
    yield text(
        "no-header", "no descriptor header", "the first line is missing", DESCRIPTOR.partition("\n")[2]
    )
    yield text("nul", "NUL byte", "a NUL inside", DESCRIPTOR.replace("vmfs", "vm\0fs"))
    yield text("nul-more", "NUL byte", "the text's last 7 bytes after it", f"{DESCRIPTOR}\0{DESCRIPTOR[-7:]}")
    yield text("nul-other", "NUL byte", "after it what is not its end", f"{DESCRIPTOR}\0#\n")
    yield text("cid", "bad CID", "a CID of nine digits", DESCRIPTOR.replace("1a2b3c4d", "1a2b3c4d5"))
    yield text("cid-twice", "duplicate key", "two CIDs", DESCRIPTOR.replace("CID=1a", "CID=00\ncid=1a", 1))
    yield text("no-cid", "missing key", "no CID", DESCRIPTOR.replace("CID=1a2b3c4d\n", ""))
    yield text("version-4", "unknown version", "version 4", DESCRIPTOR.replace("version=1", "version=4"))
    yield text(
        "create-type", "unknown createType", "a whole device", DESCRIPTOR.replace('"vmfs"', '"fullDevice"')
    )
    yield text("too-large", "too large", "2 MiB of comments", DESCRIPTOR + "#\n" * (1 << 20))

    yield header("sparse", "ok", "monolithicSparse, its descriptor embedded")
    yield header(
        "sparse-stream", "ok", "streamOptimized", version=3, flags=0x30001, method=1, directory=(1 << 64) - 1
    )
    yield header("sparse-magic", "bad magic", "another magic", magic=b"COWD")
    yield header("sparse-version", "unknown version", "version 4", version=4)
    yield header("sparse-ends", "line ends mangled", "after a transfer in text mode", ends=b"\n \n\0")
    yield header("sparse-method", "unknown compression", "compression 2", method=2)
    yield header("sparse-grain", "bad grain size", "a grain of 100 sectors", grain=100)
    yield header("sparse-grain-0", "bad grain size", "a grain of nothing", grain=0)
    yield header("sparse-capacity", overflow, "2^63 sectors", capacity=1 << 63)
    yield header("sparse-place", "bad descriptor place", "a descriptor over the header", place=0)
    yield header("sparse-size", "bad descriptor place", "a descriptor of 2^40 sectors", size=1 << 40)
    yield vector("sparse-cut", "truncated", "half a header", sparse_header()[:256], kind="sparse", own="")
    beyond = sparse_header() + DESCRIPTOR.encode()[:100]
    yield vector("sparse-beyond", "truncated", "half a descriptor", beyond, kind="sparse", own="")


# OVF envelopes and manifests

RASD_URI = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
ENVELOPE = f"""<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="{RASD_URI}" xmlns:vmw="http://www.vmware.com/schema/ovf"
 xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
 <References><File ovf:href="web01-disk1.vmdk" ovf:id="file1" ovf:size="65536"/></References>
 <DiskSection><Info/>
  <Disk ovf:capacity="15" ovf:capacityAllocationUnits="byte * 2^20" ovf:diskId="disk1" ovf:fileRef="file1"
   ovf:format="vmdk"/>
 </DiskSection>
 <VirtualSystem ovf:id="web01"><Info/><Name>web01</Name>
  <OperatingSystemSection ovf:id="96" vmw:osType="debian10_64Guest"><Info/></OperatingSystemSection>
  <VirtualHardwareSection><Info/>
   <System><vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType></System>
   <Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType>
    <rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
   <Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:InstanceID>2</rasd:InstanceID>
    <rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>512</rasd:VirtualQuantity></Item>
   <Item><rasd:Address>0</rasd:Address><rasd:InstanceID>3</rasd:InstanceID>
    <rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType><rasd:ResourceType>6</rasd:ResourceType></Item>
   <Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/disk1</rasd:HostResource>
    <rasd:InstanceID>4</rasd:InstanceID><rasd:Parent>3</rasd:Parent>
    <rasd:ResourceType>17</rasd:ResourceType></Item>
   <Item><rasd:Connection>VM Network</rasd:Connection><rasd:InstanceID>5</rasd:InstanceID>
    <rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType><rasd:ResourceType>10</rasd:ResourceType></Item>
  </VirtualHardwareSection>
 </VirtualSystem>
</Envelope>
"""
SHA1 = hashlib.sha1(b"").hexdigest()
SHA256 = hashlib.sha256(b"").hexdigest()


def ovf() -> Iterator[Vector]:
    def envelope(name: str, expect: str, comment: str, old: str = "", new: str = "") -> Vector:
        assert old in ENVELOPE
        return vector(name, expect, comment, ENVELOPE.replace(old, new) if old else ENVELOPE, kind="envelope")

    def raw(name: str, expect: str, comment: str, body: str | bytes) -> Vector:
        return vector(name, expect, comment, body, kind="envelope")

    def manifest(name: str, expect: str, comment: str, body: str | bytes) -> Vector:
        return vector(name, expect, comment, body, kind="manifest")

    yield envelope("envelope", "ok", "a VM with one disk and one card")
    yield envelope("unit-words", "ok", "units as OVF 1.0 has them", "byte * 2^20", "MegaBytes")
    yield envelope("empty-disk", "ok", "a disk that starts empty", ' ovf:fileRef="file1"')
    yield raw("padded", "ok", "padded as in an archive", ENVELOPE.encode() + b"  \0\0\0")

    entity = '<!DOCTYPE l [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>'
    yield raw("entity-bomb", "XML entity or DTD", "entities of entities", f"{entity}<Envelope>&c;</Envelope>")
    outside = (
        '<?xml version="1.0"?><!DOCTYPE e [<!ENTITY x SYSTEM "file:///etc/shadow">]><Envelope>&x;</Envelope>'
    )
    yield raw("entity-file", "XML entity or DTD", "an entity that reads a file", outside)
    yield raw(
        "dtd",
        "XML entity or DTD",
        "a DTD elsewhere",
        '<!DOCTYPE e SYSTEM "http://127.0.0.1/x.dtd"><Envelope/>',
    )
    yield raw("not-xml", "bad XML", "no XML", "hello")
    yield raw("cut", "bad XML", "half an envelope", ENVELOPE[:900])
    yield raw("encoding", "bad XML", "an encoding that is none", ENVELOPE.replace("UTF-8", "x-ioflt"))
    yield raw("not-envelope", "not an envelope", "another document", "<html/>")
    yield raw("too-large", "too large", "9 MiB of blanks", ENVELOPE.encode() + b" " * (9 << 20))
    yield raw(
        "version-2", "unknown OVF version", "OVF 2", ENVELOPE.replace("ovf/envelope/1", "ovf/envelope/2")
    )
    collection = '<VirtualSystemCollection ovf:id="c"/></Envelope>'
    yield envelope("collection", "more than one virtual system", "a vApp", "</Envelope>", collection)
    yield envelope(
        "two-systems", "more than one virtual system", "two VMs", "</Envelope>", "<VirtualSystem/></Envelope>"
    )
    start, end = ENVELOPE.index(" <VirtualSystem "), ENVELOPE.index("</Envelope>")
    yield raw("no-system", "no virtual system", "no VM", ENVELOPE[:start] + ENVELOPE[end:])
    yield envelope(
        "href-up", "file name not confined", "a file above", "web01-disk1.vmdk", "../../etc/shadow"
    )
    yield envelope(
        "href-absolute", "file name not confined", "an absolute file", "web01-disk1.vmdk", "/etc/shadow"
    )
    yield envelope(
        "href-url",
        "file name not confined",
        "a file on the network",
        "web01-disk1.vmdk",
        "http://127.0.0.1/d",
    )
    yield envelope("no-href", "missing attribute", "a file without a name", 'ovf:href="web01-disk1.vmdk" ')
    yield envelope("no-capacity", "missing attribute", "a disk without a size", 'ovf:capacity="15" ')
    yield envelope("size-sign", "bad number", "a negative size", '"65536"', '"-1"')
    yield envelope("capacity-text", "bad number", "a size to be filled in", '"15"', '"${size}"')
    yield envelope(
        "capacity-huge", "capacity overflow", "2^63 bytes and more", '"15"', '"9223372036854775807"'
    )
    yield envelope(
        "capacity-units",
        "capacity overflow",
        "units of 2^99 bytes",
        '"byte * 2^20" ovf:d',
        '"byte * 2^99" ovf:d',
    )
    yield envelope("units", "bad units", "units that are none", '"byte * 2^20" ovf:d', '"parsecs" ovf:d')
    yield envelope(
        "file-twice",
        "duplicate id",
        "two files of one id",
        "</References>",
        '<File ovf:href="b" ovf:id="file1"/></References>',
    )
    yield envelope(
        "file-ref",
        "unknown file reference",
        "a disk in a file that is not listed",
        'fileRef="file1"',
        'fileRef="file2"',
    )
    yield envelope(
        "disk-ref",
        "unknown disk reference",
        "an attached disk that is not listed",
        "/disk/disk1",
        "/disk/disk2",
    )
    yield envelope(
        "disk-file", "unknown disk reference", "an attached file", "ovf:/disk/disk1", "ovf:/file/file1"
    )
    yield envelope(
        "parent", "unknown controller", "a disk on no controller", "<rasd:Parent>3", "<rasd:Parent>9"
    )
    yield envelope("bus", "bad controller", "SCSI bus 9", "<rasd:Address>0", "<rasd:Address>9")
    yield envelope("unit", "bad unit", "SCSI unit 99", "<rasd:AddressOnParent>0", "<rasd:AddressOnParent>99")
    disk = ENVELOPE[
        ENVELOPE.index("<Item><rasd:AddressOnParent>") : ENVELOPE.index("   <Item><rasd:Connection>")
    ]
    yield envelope("unit-twice", "duplicate attachment", "two disks on one unit", disk, disk + disk)
    yield envelope("cpus", "bad number", "a million processors", "Quantity>2<", "Quantity>1000000<")
    yield envelope("memory", "bad number", "no memory", "Quantity>512<", "Quantity>0<")

    yield manifest("mf", "ok", "both usual digests", f"SHA1(a.ovf)= {SHA1}\nSHA256(b.vmdk)= {SHA256}\n")
    yield manifest(
        "mf-padded", "ok", "blanks, CRLF and NULs around", f"  SHA256 (a) = {SHA256.upper()}\r\n\r\n \0\0"
    )
    yield manifest("mf-up", "file name not confined", "a file above", f"SHA1(../../etc/shadow)= {SHA1}\n")
    yield manifest("mf-short", "bad digest length", "half a digest", f"SHA1(a)= {SHA1[:20]}\n")
    yield manifest("mf-md5", "unknown digest", "MD5", f"MD5(a)= {SHA1[:32]}\n")
    yield manifest("mf-odd", "odd line", "another format", f"{SHA1}  a\n")
    yield manifest("mf-twice", "duplicate entry", "one file twice", f"SHA1(a)= {SHA1}\n" * 2)
    yield manifest("mf-latin1", "not UTF-8", "a name in Latin-1", f"SHA1(\xe9)= {SHA1}\n".encode("latin-1"))
    yield manifest("mf-too-large", "too large", "2 MiB", b"\n" * (2 << 20))


FOLDERS: dict[str, Callable[[], Iterator[Vector]]] = {
    "keysafe": keysafe,
    "vmx": vmx,
    "vmdk": vmdk,
    "ovf": ovf,
}


def main() -> int:
    differ = []
    for folder, make in FOLDERS.items():
        made = {vector.name: vector for vector in make()}
        if "--check" in sys.argv:
            there = {vector.name: vector for vector in read(ROOT / folder)}
            differ += [
                f"{folder}/{name}" for name in made.keys() | there.keys() if made.get(name) != there.get(name)
            ]
            continue
        (ROOT / folder).mkdir(exist_ok=True)
        for name, vector in made.items():
            (ROOT / folder / name).write_bytes(to_bytes(vector))
    for name in sorted(differ):
        print(f"{name} differs", file=sys.stderr)
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
