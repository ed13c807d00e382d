"""Who may do what with keys, key providers and keyd: as the table says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine import Machine
from tests.mounted.who_may import Example, departures, populated, reads

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.interop("unshare", "setpriv", "nsenter")]

#: A provider on key servers, the certificate that it made, and a native one with a passphrase.
KMS = (
    "ioflt provider remove kms --force || true; rm -f ca.pem; "
    "ioflt provider create kmip kms --server 127.0.0.1:1 --out ca.pem"
)
OWN = (
    "ioflt provider remove own --force || true; echo secret > secret; "
    "ioflt provider create native own --passphrase-file secret"
)

#: Who may asks the servers, of which there is none.
NO_SERVER = 4

ROOTS = (3, "only root does that")

EXAMPLES = {
    "vm mark": Example("plain", "vm mark ds/plain --holds-keys"),
    "key list": reads("web", "key list ds"),
    "key drill": reads("web", "key drill"),
    "provider list": reads("", "provider list"),
    "provider create kmip": Example(
        "ioflt provider remove kms --force || true", "provider create kmip kms --server 127.0.0.1:1"
    ),
    "provider default": Example(f"{KMS}; ioflt provider default kms", "provider default local"),
    "provider backup": Example(
        "rm -f out/*.p12; echo secret > secret", "provider backup local out/$$.p12 --passphrase-file secret"
    ),
    "provider remove": Example(
        "ioflt provider create kmip kms --server 127.0.0.1:1 || true", "provider remove kms --force"
    ),
    "keyd status": reads("", "keyd status"),
    "keyd lock": Example("ioflt keyd unlock", "keyd lock", in_files=False),
    "keyd unlock": Example("ioflt keyd lock", "keyd unlock", in_files=False),
    "provider cache": reads(KMS, "provider cache kms --off"),
    "provider create native": Example(
        "ioflt provider remove own --force || true", "provider create native own"
    ),
    "provider create pkcs11": reads(
        "touch module; echo 1234 > pin",
        "provider create pkcs11 hsm --module module --token t --key k --passphrase-file pin",
        refused=ROOTS,
    ),
    "provider create transit": Example(
        f"ioflt provider remove bao --force || true; {KMS}",
        "provider create transit bao --url https://bao.example --key k --ca ca.pem --token-file ~/token",
    ),
    "provider passwd": Example(
        f"echo another > new; {OWN}",
        "provider passwd own --passphrase-file new --provider-passphrase-file secret",
    ),
    "provider renew": Example(f"{KMS}; rm -f out/new.pem", "provider renew kms out/new.pem"),
    "provider restore": reads("", "provider restore keys.p12 --passphrase-file secret", refused=ROOTS),
    "provider slot add": reads("", "provider slot add local keyfile", refused=ROOTS),
    "provider slot list": reads("", "provider slot list local", refused=ROOTS),
    "provider slot remove": reads("", "provider slot remove local keyfile", refused=ROOTS),
    "provider split": reads("", "provider split local --shares 3 --threshold 2 out", refused=ROOTS),
    "provider test": reads("", "provider test local"),
    "provider trust": Example(KMS, "provider trust kms --ca ca.pem"),
    "key add": Example("ioflt key remove local:1 || true", "key add local:1"),
    "key destroy": reads(KMS, "key destroy kms 1 --yes", done=NO_SERVER),
    "key locate": reads(KMS, "key locate kms", done=NO_SERVER),
    "key remove": Example("ioflt key add local:1 || true", "key remove local:1"),
    "key revoke": reads(KMS, "key revoke kms 1", done=NO_SERVER),
    "key status": reads("web; key_of ds > k", "key status $(cat k)"),
    "keyd stop": Example("ioflt keyd start", "keyd stop", in_files=False),
    "keyd start": reads("ioflt keyd stop", "keyd start", refused=(9, "only root starts it")),
}


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with populated() as found:
        yield found


@pytest.mark.parametrize("name", EXAMPLES)
def test_who_may_is_as_the_table_says(machine: Machine, name: str) -> None:
    assert departures(machine, name, EXAMPLES[name]) == []
