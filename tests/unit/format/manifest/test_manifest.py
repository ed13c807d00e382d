"""Manifests of backups: one text for each, and what is refused, for which reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from ioflt.errors import CorruptDataError
from ioflt.format.manifest import text
from ioflt.format.manifest.model import Directory, Disk, File, Key, Link, Manifest, Signed, Top

POINT, BEFORE = "20261127T061200Z", "20261126T061200Z"
SIGNED = Signed('{"manifest":"00"}', "00" * 64, "-----BEGIN PUBLIC KEY-----\n")
MANIFEST = Manifest(
    vm="web",
    point=POINT,
    kind="encrypted",
    home_id="0f0e0d0c-0b0a-4908-8706-050403020100",
    state="encrypted",
    policy="VM Encryption Policy",
    thick=False,
    integrity=True,
    keys=(Key("local", "1"),),
    host="host1",
    by="user:alice",
    transport="file",
    consistency="powered off",
    notes=("one",),
    top=Top(0o750, 64055, 2**32 - 2),
    disks=(
        Disk(
            "a/b%:.raw",
            "raw",
            512,
            "a%2Fb%25%3A.raw.qcow2",
            BEFORE,
            9,
            "0" * 64,
            "1" * 64,
            None,
            0o644,
            0,
            36,
            7,
            {},
        ),
        Disk(
            "web.vmdk",
            "vmdk",
            1024,
            "web.vmdk.qcow2",
            None,
            9,
            "0" * 64,
            "1" * 64,
            "52/1",
            0o600,
            0,
            36,
            7,
            {"a": "b"},
        ),
    ),
    files=(File("a/\udcff", 3, 0o644, 0, 36, -1, "2" * 64), File("web.vmx", 3, 0o644, 0, 36, 5, "2" * 64)),
    directories=(Directory("a", 0o755, 0, 36, 5),),
    links=(Link("a/link", "../web.vmx", 0, 36),),
)
GOOD = text.write(MANIFEST, SIGNED)


def changed(*path: str | int, to: Any = None, drop: bool = False) -> Callable[[dict[str, Any]], None]:
    """A change of the document: the value at that path of names and indices."""

    def change(document: dict[str, Any]) -> None:
        inner: Any = document
        for step in path[:-1]:
            inner = inner[step]
        if drop:
            del inner[path[-1]]
        else:
            inner[path[-1]] = to

    return change


BAD = {
    "unknown version": changed("format", to=2),
    "no version": changed("format", drop=True),
    "another field": changed("more", to=1),
    "another field of the manifest": changed("manifest", "more", to=1),
    "a missing field": changed("manifest", "host", drop=True),
    "an odd point": changed("manifest", "point", to="../../etc"),
    "a kind that is none": changed("manifest", "kind", to="plain"),
    "a size below zero": changed("manifest", "files", 0, "size", to=-1),
    "a number beyond any size": changed("manifest", "files", 0, "size", to=2**63),
    "a short digest": changed("manifest", "disks", 1, "sha256", to="00"),
    "a mode of more than permissions": changed("manifest", "disks", 1, "mode", to=0o100644),
    "a mode by which it runs as its owner": changed("manifest", "files", 0, "mode", to=0o4755),
    "a user that chown takes for none": changed("manifest", "top", "uid", to=2**32 - 1),
    "a path that leads out": changed("manifest", "files", 0, "path", to="../x"),
    "an absolute path": changed("manifest", "files", 0, "path", to="/x"),
    "a VM's name that is a path": changed("manifest", "vm", to="a/b"),
    "one path twice": changed("manifest", "files", 1, "path", to="web.vmdk"),
    "paths not sorted": changed("manifest", "files", 0, "path", to="z"),
    "an image elsewhere": changed("manifest", "disks", 1, "image", to="../x/web.vmdk.qcow2"),
    "an image of another disk": changed("manifest", "disks", 1, "image", to="other.vmdk.qcow2"),
    "a parent that is the point": changed("manifest", "disks", 0, "parent", to=POINT),
    "a later parent": changed("manifest", "disks", 0, "parent", to="20991127T061200Z"),
    "a short signature": changed("signed", "signature", to="00"),
}
REASONS = {
    "unknown version": "unknown version",
    "no version": "unknown version",
    "a path that leads out": "bad path",
    "an absolute path": "bad path",
    "a VM's name that is a path": "bad name",
    "one path twice": "duplicate path",
    "paths not sorted": "duplicate path",
    "an image elsewhere": "image not of its disk",
    "an image of another disk": "image not of its disk",
    "a parent that is the point": "parent not older",
    "a later parent": "parent not older",
}


def test_it_is_read_as_it_was_written() -> None:
    found = text.parse(GOOD)
    assert (found.manifest, found.signed) == (MANIFEST, SIGNED)
    assert GOOD.isascii()
    assert found.manifest.parents == {BEFORE}
    assert not found.manifest.full


@pytest.mark.parametrize("what", BAD)
def test_what_is_refused(what: str) -> None:
    document = json.loads(GOOD)
    BAD[what](document)
    with pytest.raises(CorruptDataError) as caught:
        text.parse(text._canonical(document))
    assert caught.value.reason == REASONS.get(what, "bad manifest")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (GOOD.replace(b",", b", ", 1), "not canonical"),
        (GOOD.rstrip(), "not canonical"),
        (GOOD + b"\n", "not canonical"),
        (GOOD.replace(b'"file"', b'"\\u0066ile"'), "not canonical"),
        (GOOD.replace(b'"format":1', b'"format":1,"format":1'), "duplicate key"),
        (GOOD[:-3], "bad JSON"),
        (b"[]", "not an object"),
        (b"\xff", "not UTF-8"),
        (b" " * (text.MAX_SIZE + 1), "too large"),
    ],
)
def test_there_is_no_other_text_for_it(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptDataError) as caught:
        text.parse(data)
    assert caught.value.reason == reason


def test_what_is_signed_is_all_of_the_manifest() -> None:
    document = json.loads(GOOD)
    for name in document["manifest"]:
        other = {**document["manifest"], name: None}
        assert text._canonical(other) != text.content(MANIFEST)
    assert text.parse(GOOD).manifest == MANIFEST
    assert text.digest(text.parse(GOOD).manifest) == text.digest(MANIFEST)


def test_an_image_is_one_name() -> None:
    assert text.image_of("sub/disk.raw") == "sub%2Fdisk.raw.qcow2"
    assert text.image_of("nbd:x") == "nbd%3Ax.qcow2"
    assert text.image_of("x" * 249) == "x" * 249 + ".qcow2"
    for path in ("x" * 250, "d/" * 90):
        assert text.image_of(path) == f"{sha256(path.encode()).hexdigest()}.qcow2"
