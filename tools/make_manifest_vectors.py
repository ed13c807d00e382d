"""Writes tests/vectors/manifest: manifests of backups, with `json` and PyCryptodome, without our code.

tools/make_manifest_vectors.py [OUT]     OUT defaults to tests/vectors/manifest
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from Crypto.PublicKey import ECC
from Crypto.Signature import eddsa

OUT = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "manifest"

#: A public test key.
KEY = ECC.construct(curve="Ed25519", seed=bytes(range(32)))
OTHER = ECC.construct(curve="Ed25519", seed=bytes(range(1, 33)))

HOME = "0f0e0d0c-0b0a-4908-8706-050403020100"
POINT, BEFORE = "20261127T061200Z", "20261126T061200Z"
LOOK = {"mode": 0o640, "uid": 0, "gid": 36}

Document = dict[str, Any]

GOOD: Document = {
    "vm": "web01",
    "point": POINT,
    "kind": "clear",
    "home_id": HOME,
    "state": "encrypted",
    "policy": "VM Encryption Policy",
    "thick": False,
    "integrity": True,
    "keys": [{"provider": "local", "key_id": "1"}],
    "host": "host1",
    "by": "user:alice",
    "transport": "file",
    "consistency": "crash-consistent",
    "notes": ["a note"],
    "top": {"mode": 0o750, "uid": 0, "gid": 36},
    "disks": [
        {
            "path": "a/b%:.raw", "form": "raw", "capacity": 512, "image": "a%2Fb%25%3A.raw.qcow2",
            "parent": BEFORE, "stored": 9, "sha256": "0" * 64, "content": "1" * 64, "change_id": None,
            "mtime": 7, "ddb": {}, **LOOK,
        },
        {
            "path": "web01.vmdk", "form": "vmdk", "capacity": 1024, "image": "web01.vmdk.qcow2",
            "parent": None, "stored": 9, "sha256": "0" * 64, "content": "1" * 64, "change_id": "52/1",
            "mtime": 7, "ddb": {"adapterType": "lsilogic"}, **LOOK,
        },
    ],
    "files": [
        {"path": "a/\udcff", "size": 3, "mtime": -1, "sha256": "2" * 64, **LOOK},
        {"path": "web01.vmx", "size": 3, "mtime": 5, "sha256": "2" * 64, **LOOK},
    ],
    "directories": [{"path": "a", "mtime": 5, **LOOK}],
    "links": [{"path": "a/link", "target": "../web01.vmx", "uid": 0, "gid": 36}],
}  # fmt: skip


PARTS = ("disks", "files", "directories", "links")


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def signed(
    manifest: Document, *, key: ECC.EccKey = KEY, prefix: bytes = b"ioflt backup v1\n", **said: object
) -> Document:
    """The document; `said`: other fields of the statement."""
    by = {"who": "user:alice", "uid": 1000, "pid": 4242}
    fields = {
        "manifest": hashlib.sha256(canonical(manifest)).hexdigest(),
        "home": manifest.get("home_id"),
        "datastore": None,
        "by": by,
        "time": "2026-11-27T06:12:01Z",
        **said,
    }
    statement = json.dumps(fields, separators=(",", ":"))
    signature = eddsa.new(key, "rfc8032").sign(prefix + statement.encode() + b"\n")
    pem = KEY.public_key().export_key(format="PEM") + "\n"
    return {
        "format": 1,
        "manifest": manifest,
        "signed": {"statement": statement, "signature": signature.hex(), "key": pem},
    }


def changed(*path: str | int, to: object = None, drop: bool = False) -> Document:
    """The good manifest with another value at that path."""
    made = copy.deepcopy(GOOD)
    inner: Any = made
    for step in path[:-1]:
        inner = inner[step]
    if drop:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return made


def altered(change: Callable[[Document], object]) -> Document:
    """The good document, changed after it was signed."""
    made = copy.deepcopy(signed(GOOD))
    change(made)
    return made


#: Name → what it is about, what reading it gives, and the manifest, which is signed as it is.
MANIFESTS: dict[str, tuple[str, str, Document]] = {
    "full": ("a point that needs no other one", "ok", changed("disks", 0, "parent")),
    "increment": ("a disk that builds on an older point", "ok", GOOD),
    "empty": ("a VM without any file", "ok", GOOD | {part: [] for part in PARTS}),
    "field": ("a field that is none", "bad manifest", changed("more", to=1)),
    "field-missing": ("a field is missing", "bad manifest", changed("top", drop=True)),
    "home": ("an id that is none", "bad manifest", changed("home_id", to="web01")),
    "point": ("a point that is a path", "bad manifest", changed("point", to="../../etc")),
    "kind": ("a kind that is none", "bad manifest", changed("kind", to="plain")),
    "state": ("a state that is none", "bad manifest", changed("state", to="locked")),
    "form": ("a form that is none", "bad manifest", changed("disks", 0, "form", to="vhdx")),
    "capacity-low": ("a disk of less than nothing", "bad manifest", changed("disks", 0, "capacity", to=-512)),
    "capacity-high": ("a disk of 8 EiB", "bad manifest", changed("disks", 0, "capacity", to=2**63)),
    "size-real": ("a size with a fraction", "bad manifest", changed("files", 0, "size", to=1.5)),
    "digest": ("a digest in capitals", "bad manifest", changed("disks", 0, "sha256", to="A" * 64)),
    "setuid": ("a file that runs as its owner", "bad manifest", changed("files", 0, "mode", to=0o4755)),
    "uid": ("a user that chown takes for none", "bad manifest", changed("files", 0, "uid", to=2**32 - 1)),
    "gid": ("a group below zero", "bad manifest", changed("top", "gid", to=-1)),
    "parent-odd": ("a parent that is a path", "bad manifest", changed("disks", 0, "parent", to="../x")),
    "vm": ("a VM whose name is a path", "bad name", changed("vm", to="../web01")),
    "path-out": ("a file beside the VM", "bad path", changed("files", 0, "path", to="../x")),
    "path-absolute": ("a file of the host", "bad path", changed("files", 0, "path", to="/etc/passwd")),
    "path-dot": ("a path with a dot", "bad path", changed("files", 0, "path", to="a/./b")),
    "path-ours": ("a record of ours", "bad path", changed("files", 0, "path", to=".ioflt")),
    "path-twice": ("two of one path", "duplicate path", changed("files", 1, "path", to="web01.vmdk")),
    "path-order": ("files that are not sorted", "duplicate path", changed("files", 0, "path", to="z")),
    "image-out": ("elsewhere", "image not of its disk", changed("disks", 1, "image", to="../x.qcow2")),
    "image-other": ("another's", "image not of its disk", changed("disks", 1, "image", to="b.qcow2")),
    "parent-self": ("it builds on itself", "parent not older", changed("disks", 0, "parent", to=POINT)),
    "parent-later": (
        "a point that builds on a later one", "parent not older",
        changed("disks", 0, "parent", to="20991127T061200Z"),
    ),
}  # fmt: skip

#: The same with the document.
DOCUMENTS: dict[str, tuple[str, str, Document]] = {
    "version": ("a version of later", "unknown version", altered(lambda made: made.update(format=2))),
    "signature-short": (
        "half a signature", "bad manifest", altered(lambda made: made["signed"].update(signature="00" * 32)),
    ),
    "signature-zeros": (
        "no signature", "signature does not verify",
        altered(lambda made: made["signed"].update(signature="00" * 64)),
    ),
    "signature-other": ("another one's signature", "signature does not verify", signed(GOOD, key=OTHER)),
    "signature-report": (
        "signed as a report for auditors", "signature does not verify",
        signed(GOOD, prefix=b"ioflt attest v1\n"),
    ),
    "key": ("a key that is none", "no public key", altered(lambda made: made["signed"].update(key="none"))),
    "changed": (
        "changed after it was signed", "manifest was changed",
        altered(lambda made: made["manifest"].update(by="user:mallory")),
    ),
    "statement": ("a statement with a field more", "bad statement", signed(GOOD, more=1)),
    "statement-old": ("a statement of a report", "bad statement", signed(GOOD, home=7)),
    "another-vm": (
        "signed for who may back up another VM", "signed for another VM",
        signed(GOOD, home="0f0e0d0c-0b0a-4908-8706-050403020101"),
    ),
}  # fmt: skip

#: Name → what it is about, what reading it gives, and the file.
FILES: dict[str, tuple[str, str, bytes]] = {
    "blank": ("a blank", "not canonical", canonical(signed(GOOD)).replace(b",", b", ", 1)),
    "escaped": ("an escape", "not canonical", canonical(signed(GOOD)).replace(b'"file"', b'"\\u0066ile"')),
    "line": ("no line's end", "not canonical", canonical(signed(GOOD)).rstrip()),
    "twice": ("a field twice", "duplicate key", canonical(signed(GOOD)).replace(b"{", b'{"format":1,', 1)),
    "cut": ("cut short", "bad JSON", canonical(signed(GOOD))[:1000]),
    "list": ("a list", "not an object", b"[]\n"),
    "bytes": ("no text", "not UTF-8", b"\xff\n"),
    "nothing": ("an empty file", "bad JSON", b""),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="write the vectors of manifests")
    parser.add_argument("out", nargs="?", type=Path, default=OUT)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    made = {name: (about, expect, canonical(signed(of))) for name, (about, expect, of) in MANIFESTS.items()}
    made |= {name: (about, expect, canonical(of)) for name, (about, expect, of) in DOCUMENTS.items()}
    for name, (about, expect, body) in (made | FILES).items():
        head = f"expect: {expect}\ncomment: {about}\n"
        if expect == "ok":
            head += f"sha256: {json.loads(json.loads(body)['signed']['statement'])['manifest']}\n"
        (out / name).write_bytes(head.encode() + b"\n" + body)


if __name__ == "__main__":
    main()
