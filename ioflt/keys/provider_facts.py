"""What may be known of a provider by who may not read its files: nothing that opens it or its keys."""

from __future__ import annotations

from typing import Final

from ioflt.crypto import certificates
from ioflt.errors import CorruptDataError, MalformedError
from ioflt.keys import provider_file
from ioflt.keys.directory import ProviderDirectory
from ioflt.keys.kmip.file import KIND as KMIP
from ioflt.keys.kmip.file import KmipFile
from ioflt.keys.kmip.file import parse as parse_kmip
from ioflt.keys.kmip.store import KmipStore
from ioflt.keys.native.file import ProviderFile, label_of, parse_provider
from ioflt.keys.pkcs11.file import Pkcs11File
from ioflt.keys.pkcs11.file import parse as parse_pkcs11
from ioflt.keys.transit.file import CertificateLogin, TransitFile
from ioflt.keys.transit.file import parse as parse_transit
from ioflt.transport.tls import fingerprint
from ioflt.wire.keyd.providers import About, Fact


def about(directory: ProviderDirectory, name: str) -> About:
    """What is known of a provider now; of a broken one its `problem`. Raises NotFoundError, StorageError."""
    seen, data = directory.stamp(name), directory.read(name)
    kind = provider_file.kind_of(data)
    try:
        facts = _of(kind, data)
        if kind == KMIP:
            own = KmipStore(directory.directory).certificate(name)
            facts["certificate"] = "" if own is None else fingerprint(own.der)
    except CorruptDataError as error:
        return About(name, kind, seen, {"problem": str(error)})
    return About(name, kind, seen, facts)


def _of(kind: str, data: bytes) -> dict[str, Fact]:
    read = _READERS.get(kind)
    if read is None:
        raise MalformedError("wrong format", "of no kind that is known")
    return read(data)


def _native(data: bytes) -> dict[str, Fact]:
    file: ProviderFile = parse_provider(data)
    return {
        "uuid": file.uuid,
        "slots": tuple(label_of(slot) for slot in file.slots),
        "backed_up": file.backed_up,
    }


def _kmip(data: bytes) -> dict[str, Fact]:
    file: KmipFile = parse_kmip(data)
    return {
        "uuid": file.uuid,
        "servers": tuple(map(str, file.servers)),
        "trusts": _fingerprints(file.anchors),
        "timeout": f"{file.timeout:g} s",
    }


def _transit(data: bytes) -> dict[str, Fact]:
    file: TransitFile = parse_transit(data)
    login = file.login
    by = {"login_mount": login.mount, "role": login.role} if isinstance(login, CertificateLogin) else {}
    return {
        "uuid": file.uuid,
        "server": file.server,
        "mount": file.mount,
        "key": file.key,
        "login": str(login.__struct_config__.tag),
        "login_file": login.file,
        **by,
        "trusts": _fingerprints(file.anchors),
        "timeout": f"{file.timeout:g} s",
    }


def _pkcs11(data: bytes) -> dict[str, Fact]:
    """Of its environment the names: a value may be a PIN."""
    file: Pkcs11File = parse_pkcs11(data)
    return {
        "uuid": file.uuid,
        "module": file.module,
        "token": file.token,
        "key": file.key,
        "pin_file": file.pin_file or "",
        "environment": tuple(file.environment),
        "timeout": f"{file.timeout:g} s",
    }


def _fingerprints(anchors: str) -> tuple[str, ...]:
    return tuple(fingerprint(one.der) for one in certificates.read(anchors)) if anchors else ()


_READERS: Final = {"native": _native, "kmip": _kmip, "transit": _transit, "pkcs11": _pkcs11}
