#!/usr/bin/env python3
"""Verify a report of `ioflt attest`: verify_attest.py REPORT PUBLIC_KEY.pem [DIR]

Needs Python 3.10, the program openssl (3.0 or later) and, to compare the datastore DIR with the report,
cryptsetup. Nothing of ioflt is used. Exits with 0 if everything is as the report says, else with 1.

The report tells of one moment. A VM that was changed, encrypted or recrypted since differs from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

PREFIX = b"ioflt attest v1\n"
HEADERS = 32 << 10
OUR_OWN = (".ioflt", ".ioflt.d")


class Wrong(Exception):
    """The report cannot be relied on."""


def main(arguments: list[str]) -> int:
    """Verify, print what was found, and return the exit code."""
    if len(arguments) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 1
    try:
        with open(arguments[0], "rb") as file:
            statement, report = verified(file.read(), arguments[1])
        show(statement, report)
        if len(arguments) == 2:
            return 0
        findings = list(compared(report["datastore"], os.path.abspath(os.fsencode(arguments[2]))))
    except (Wrong, OSError) as error:
        print(f"NOT VERIFIED: {error}")
        return 1
    for finding in findings:
        print(f"DIFFERS: {finding}")
    if not findings:
        print("each file of the report is there, and no other; what it calls ciphertext has the same header")
    return 1 if findings else 0


def verified(document: bytes, public_key: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The statement of keyd and the report. Raises Wrong unless both are under the signature."""
    lines = document.split(b"\n")
    if len(lines) != 5 or lines[0] + b"\n" != PREFIX or lines[4]:
        raise Wrong("this is no report of ioflt attest")
    signature = re.fullmatch(rb"signature ([0-9a-f]{128})", lines[2])
    if signature is None:
        raise Wrong("the report has no signature")
    check_signature(PREFIX + lines[1] + b"\n", bytes.fromhex(signature[1].decode()), public_key)
    statement = json.loads(lines[1])
    if hashlib.sha256(lines[3] + b"\n").hexdigest() != statement["report"]:
        raise Wrong("the report is not the one that was signed")
    report = json.loads(lines[3])
    if report["format"] != 1:
        raise Wrong(f"the report is of format {report['format']}, this program knows format 1")
    return statement, report


def check_signature(signed: bytes, signature: bytes, public_key: str) -> None:
    """Ask openssl. Raises Wrong."""
    with tempfile.TemporaryDirectory() as directory:
        paths = [os.path.join(directory, name) for name in ("signed", "signature")]
        for path, data in zip(paths, (signed, signature), strict=True):
            with open(path, "wb") as file:
                file.write(data)
        asked = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", public_key]
        done = subprocess.run([*asked, "-in", paths[0], "-sigfile", paths[1]], capture_output=True)
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise Wrong(f"the signature does not verify ({said[0] if said else 'openssl says no'})")


def show(statement: dict[str, Any], report: dict[str, Any]) -> None:
    """What the report says, for people."""
    datastore, events = report["datastore"], report["events"]
    print(f"signed     {statement['time']}, for {text(statement['by']['who'])}")
    print(f"datastore  {text(datastore['path'])} on {text(report['host'])}, id {text(datastore['id'])}")
    print(f"event log  head {text(statement['head'])}, {'BROKEN' if events['findings'] else 'whole'}")
    for vm in datastore["vms"]:
        print(f"VM {text(vm['name'])}: {text(vm['state'])}, keys {text(', '.join(vm['keys']) or 'none')}")
        if vm["problem"]:
            print(f"  PROBLEM: {text(vm['problem'])}")
        could = vm["could_read"]
        names = "whoever its files' modes let" if could is None else ", ".join(one["who"] for one in could)
        print(f"  could read: {text(names or 'nobody')}")
        did = ", ".join(map(user_of, vm["did_read"]))
        print(f"  did read:   {text(did or 'nobody')}")
        show_files(vm["files"])
    if datastore["files"]:
        print("outside of VMs:")
        show_files(datastore["files"])


def user_of(use: dict[str, Any]) -> str:
    """Who had data keys, and for whom."""
    acted = "" if use["as_principal"] is None else f" as {use['as_principal']}"
    served = "" if use["served_uid"] is None else f" for uid {use['served_uid']}"
    return f"{use['who']}{acted}{served}"


def show_files(files: list[dict[str, Any]]) -> None:
    """How each is stored."""
    for one in files:
        stored = one["stored_as"].upper() if one["stored_as"] == "clear" else one["stored_as"]
        problem = f" ({text(one['problem'])})" if one["problem"] else ""
        print(f"  {stored:<10}  {text(one['path'])}{problem}")


def compared(datastore: dict[str, Any], directory: bytes) -> Iterator[str]:
    """What is otherwise in the directory than the report says."""
    told = {name(one["path"]): one for one in datastore["files"]}
    for vm in datastore["vms"]:
        told.update({os.path.join(name(vm["name"]), name(one["path"])): one for one in vm["files"]})
    there = set(regular_files(directory))
    for path in sorted(there - set(told)):
        yield f"{shown(path)}: is not in the report"
    for path, one in sorted(told.items()):
        if path not in there:
            yield f"{shown(path)}: is in the report, and not there"
        elif one["stored_as"] != "clear":
            difference = difference_of(os.path.join(directory, path), one)
            if difference is not None:
                yield f"{shown(path)}: {difference}"


def difference_of(path: bytes, told: dict[str, Any]) -> str | None:
    """Why the file is not the ciphertext of the report; None: it is."""
    container = told["stored_as"] == "container"
    with open(path, "rb") as file:
        if hashlib.sha256(file.read(HEADERS if container else -1)).hexdigest() != told["sha256"]:
            return "its header is another one" if container else "its content is another one"
    if container:
        done = subprocess.run([b"cryptsetup", b"luksDump", path], capture_output=True)
        if done.returncode:
            return f"cryptsetup does not read it: {done.stderr.decode(errors='replace').strip()}"
        uuid = re.search(rb"^UUID:\s*(\S+)$", done.stdout, re.MULTILINE)
        if uuid is None or uuid[1].decode() != told["uuid"]:
            return "cryptsetup reads another UUID"
    return None


def regular_files(top: bytes) -> Iterator[bytes]:
    """Paths below the datastore, without those of ioflt itself."""

    def fail(error: OSError) -> None:
        raise error

    for root, directories, names in os.walk(top, onerror=fail):
        inner = os.path.relpath(root, top)
        if inner == b"." or b"/" not in inner:  # the datastore's own, and each VM's
            directories[:] = [one for one in directories if one.decode(errors="replace") not in OUR_OWN]
            names = [one for one in names if one.decode(errors="replace") not in OUR_OWN]
        for one in names:
            path = os.path.normpath(os.path.join(inner, one))
            if stat.S_ISREG(os.lstat(os.path.join(top, path)).st_mode):
                yield path


def name(told: str) -> bytes:
    """A file name of the report: what is no UTF-8 is in lone surrogates."""
    return told.encode("utf-8", "surrogateescape")


def shown(path: bytes) -> str:
    """A path as text without control characters."""
    return text(path.decode(errors="backslashreplace"))


def text(told: str) -> str:
    """Words of the report without control characters."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in told)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
