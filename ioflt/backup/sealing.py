"""Manifests signed by keyd, and whose signature one has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final, Protocol

from ioflt.audit import attestation
from ioflt.backup.shelf import Shelf
from ioflt.crypto import signing
from ioflt.errors import AuthenticationError
from ioflt.format.manifest import text
from ioflt.format.manifest.model import Document, Manifest, Signed
from ioflt.wire.keyd.values import MAX_SHOWN, MAX_STATEMENT, Signing

#: Why a document is refused that another machine signed.
STRANGER: Final = "signed by another key"

PREFIX: Final = attestation.BACKUP_PREFIX


class Signer(Protocol):
    """keyd. Each raises DeniedError for whom it does not sign."""

    def may_sign(self, about: Signing) -> None: ...

    def sign_manifest(self, manifest: bytes, about: Signing) -> tuple[bytes, bytes, str]:
        """The statement about a SHA-256, the signature, the public key in PEM."""
        ...


def about(path: str, vm: str, home_id: str, point: str = "", former: Signed | None = None) -> Signing:
    """What the manifest of a point is about, of the shelf with that path. `former`: of the one in whose place
    it comes.
    """
    place = os.fsencode(os.path.join(path, point)).decode("utf-8", "replace")[:MAX_SHOWN]
    statement = b"" if former is None else former.statement.encode("utf-8", "surrogatepass")
    told = Signing(home_id, os.fsencode(vm).decode("utf-8", "replace"), place)
    if former is None or len(statement) > MAX_STATEMENT:
        return told
    return Signing(told.home_id, told.shown, place, statement, bytes.fromhex(former.signature))


def signed(manifest: Manifest, signer: Signer, of: Signing) -> bytes:
    """The text of `manifest.json`."""
    statement, signature, key = signer.sign_manifest(text.digest(manifest), of)
    return text.write(manifest, Signed(statement.decode(), signature.hex(), key))


def attested(document: Document) -> tuple[str, str]:
    """Who brought the manifest, and when, by the statement in it. Raises MalformedError."""
    stated = attestation.manifest_statement(document.signed.statement.encode("utf-8", "surrogatepass"))
    return stated.by.as_principal or stated.by.who, stated.time.strftime("%Y-%m-%dT%H:%M:%SZ")


def behind(shelf: Shelf, document: Document) -> Iterator[Document]:
    """The document of a point, and of those there that it builds on. Raises as `Shelf.document`."""
    there, waiting, seen = set(shelf.points()), [document], {document.manifest.point}
    while waiting:
        yield (one := waiting.pop())
        for point in sorted(one.manifest.parents & there - seen):
            seen.add(point)
            waiting.append(shelf.document(point))


def check(document: Document, key: str | None) -> None:
    """The manifest is what some keyd signed; with `key`, a public key in PEM, that one's keyd.

    Raises AuthenticationError "signature does not verify", "manifest was changed", "signed for another VM",
    "signed by another key", MalformedError.
    """
    stated = document.signed.statement.encode("utf-8", "surrogatepass")
    message = attestation.signed(stated, PREFIX)
    if not signing.verify(document.signed.key, bytes.fromhex(document.signed.signature), message):
        raise AuthenticationError("signature does not verify")
    said = attestation.manifest_statement(stated)
    if said.manifest != text.digest(document.manifest).hex():
        raise AuthenticationError("manifest was changed", "its signature is of another one")
    if said.home != document.manifest.home_id:  # whom keyd asked for privileges on that one
        raise AuthenticationError(
            "signed for another VM", f"{said.home[:40]}, not {document.manifest.home_id}"
        )
    if key is not None and key.split() != document.signed.key.split():
        raise AuthenticationError(STRANGER)
