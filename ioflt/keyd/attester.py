"""The key by which this keyd signs reports and backups: an Ed25519 key of its own, made at first use."""

from __future__ import annotations

import threading
from pathlib import Path

from ioflt.audit import attestation
from ioflt.audit.attestation import ManifestStatement, Statement
from ioflt.crypto import signing
from ioflt.crypto.secret import Secret
from ioflt.errors import MalformedError, NotFoundError
from ioflt.keys import files


class Attester:
    """`path` holds the private key, as raw bytes. Safe for calls from several threads.

    Calls raise MalformedError, StorageError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def public_key(self) -> str:
        """In PEM."""
        with self._key() as key:
            return signing.public_pem(key)

    def sign(self, made: Statement | ManifestStatement) -> tuple[bytes, bytes]:
        """The JSON of a statement about a report or a backup, and its signature; nothing else is signed."""
        stated = attestation.statement(made)
        with self._key() as key:
            return stated, signing.sign(key, attestation.signed(stated, made.prefix))

    def said(self, stated: bytes, signature: bytes) -> ManifestStatement | None:
        """What this keyd stated of a manifest before; None where it did not."""
        message = attestation.signed(stated, attestation.BACKUP_PREFIX)
        if not signing.verify(self.public_key(), signature, message):
            return None
        return attestation.manifest_statement(stated)

    def _key(self) -> Secret:
        with self._lock:
            try:
                return self._read()
            except NotFoundError:
                with signing.new_key() as key:
                    files.create(self._path, key.view())
                return self._read()

    def _read(self) -> Secret:
        data = bytearray(files.read(self._path, signing.KEY_SIZE))
        if len(data) != signing.KEY_SIZE:
            raise MalformedError("is no key to sign reports by", file=self._path)
        return Secret(data)
