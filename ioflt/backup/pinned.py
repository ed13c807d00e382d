"""TLS by certificates where one client's is let in: the very one that a service is known by.

qemu checks certificates against authorities, or names in them, and anybody whom an authority certifies can
have a name. So GnuTLS is told that the client's certificate itself is what is trusted, beside one with the
name of its issuer, a key that nobody has, and a time that is over. Clients choose their certificate by that
name; GnuTLS finds an issuer that is of no use, and lets in what is trusted itself.
"""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

from ioflt.crypto import certificates
from ioflt.errors import CorruptDataError, DeniedError, NotFoundError, UsageError
from ioflt.keys import files

_MAX_PEM = 1 << 16


def make(directory: Path, given: Path, fingerprint: str) -> list[Path]:
    """Make a directory for qemu's tls-creds-x509 of another one: `server-cert.pem`, `server-key.pem` and
    `client-cert.pem`, which has to be the certificate of that SHA-256. Returns where files of it are.

    Raises NotFoundError, MalformedError, StorageError, DeniedError, UsageError for one that has expired.
    """
    own, key = given / "server-cert.pem", given / "server-key.pem"
    for path in (own, key):
        if not os.access(path, os.R_OK):
            raise NotFoundError("cannot be read", file=path)
    client = given / "client-cert.pem"
    pem = files.read(client, _MAX_PEM).decode(errors="replace")
    try:
        found = certificates.read(pem)
    except CorruptDataError as error:
        error.file = str(client)
        raise
    if hashlib.sha256(found[0].der).hexdigest() != fingerprint:
        raise DeniedError("is not the certificate that the service is known by", file=client)
    if found[0].not_after <= datetime.now(UTC):
        raise UsageError("has expired", file=client)
    trusted = certificates.to_pem(found[0].der) + certificates.without_a_key(found[0].der)
    directory.mkdir(mode=0o700)
    (directory / "ca-cert.pem").write_text(trusted)
    (directory / "server-cert.pem").symlink_to(own.resolve())
    (directory / "server-key.pem").symlink_to(key.resolve())
    return sorted({own.resolve().parent, key.resolve().parent})
