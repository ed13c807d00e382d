"""Manifests signed by keyd, and whose signature one has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from ioflt.audit import attestation
from ioflt.backup.shelf import Shelf
from ioflt.crypto import signing
from ioflt.errors import AuthenticationError
from ioflt.format.manifest import text
from ioflt.format.manifest.model import Document, Manifest, Signed

#: keyd's: the statement about a SHA-256, the signature, the public key in PEM.
Sign: TypeAlias = Callable[[bytes], tuple[bytes, bytes, str]]

#: Why a document is refused that another machine signed.
STRANGER: Final = "signed by another key"

PREFIX: Final = attestation.BACKUP_PREFIX


def signed(manifest: Manifest, sign: Sign) -> bytes:
    """The text of `manifest.json`."""
    statement, signature, key = sign(text.digest(manifest))
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

    Raises AuthenticationError "signature does not verify", "manifest was changed", "signed by another key",
    MalformedError.
    """
    stated = document.signed.statement.encode("utf-8", "surrogatepass")
    message = attestation.signed(stated, PREFIX)
    if not signing.verify(document.signed.key, bytes.fromhex(document.signed.signature), message):
        raise AuthenticationError("signature does not verify")
    if attestation.manifest_statement(stated).manifest != text.digest(document.manifest).hex():
        raise AuthenticationError("manifest was changed", "its signature is of another one")
    if key is not None and key.split() != document.signed.key.split():
        raise AuthenticationError(STRANGER)
