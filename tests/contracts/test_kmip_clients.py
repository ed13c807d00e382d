"""Clients by other authors at a server that speaks by ioflt's codec: each judges what it reads of us.

PyKMIP's (Python), and OpenBao's (Go), which is one where its seal's key is on a KMIP server.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ioflt.testing.kmip_server import Key, KmipServer
from ioflt.testing.openbao import KMIP_SEAL, OpenBao
from ioflt.testing.pykmip import HOST
from ioflt.wire.kmip import messages as m
from ioflt.wire.kmip.connection import VERSIONS
from ioflt.wire.kmip.enumerations import Operation, State, number_of
from ioflt.wire.kmip.tags import BY_NAME, Tag
from ioflt.wire.kmip.ttlv import Item, Type

ENCRYPT, DECRYPT = number_of("Operation", "Encrypt"), number_of("Operation", "Decrypt")


@pytest.mark.parametrize("version", [str(version) for version in VERSIONS])
def test_pykmips_client(authority, certificate, version):
    identity = authority.issue(f"client-{version}")
    with KmipServer(certificate, authority.path) as server:
        command = [sys.executable, "-W", "ignore", Path(__file__).parent / "pykmip_client.py"]
        arguments = [server.port, version, authority.path, *identity]
        done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert {str(message.header.version) for message in server.seen} == {version}
    seen = json.loads(done.stdout)
    assert seen == {
        "id": seen["id"],
        "key": server.destroyed[seen["id"]].material.hex(),
        "state": "ACTIVE",
        "located": [seen["id"]],
        "refused": "PERMISSION_DENIED",
        "gone": "ITEM_NOT_FOUND",
    }


class Sealing(KmipServer):
    """It encrypts and decrypts as well, by AES-256-GCM."""

    def _item(self, item: m.RequestItem) -> m.ResponseItem:
        if item.operation not in (ENCRYPT, DECRYPT):
            return super()._item(item)
        fields = {child.name: child for child in item.payload.value}
        key_id, nonce, data = (fields[name] for name in ("UniqueIdentifier", "IVCounterNonce", "Data"))
        cipher = AESGCM(self.keys[key_id.value].material)
        if item.operation == ENCRYPT:
            sealed = cipher.encrypt(nonce.value, data.value, None)
            told = (key_id, *byte_strings(Data=sealed[:-16], AuthenticatedEncryptionTag=sealed[-16:]))
        else:
            sealed = data.value + fields["AuthenticatedEncryptionTag"].value
            told = (key_id, *byte_strings(Data=cipher.decrypt(nonce.value, sealed, None)))
        payload = Item(Tag.RESPONSE_PAYLOAD, Type.STRUCTURE, told)
        return m.ResponseItem(operation=item.operation, id=item.id, status=0, payload=payload)


def byte_strings(**fields: bytes) -> list[Item]:
    return [Item(BY_NAME[name], Type.BYTE_STRING, value) for name, value in fields.items()]


def test_openbaos_client(authority, certificate, tmp_path):
    identity = authority.issue("bao-client")
    with Sealing(certificate, authority.path) as server:
        server.keys["seal"] = Key(bytes(range(32)), State.ACTIVE)
        seal = KMIP_SEAL.format(
            endpoint=f"{HOST}:{server.port}",
            key_id="seal",
            authority=authority.path,
            certificate=identity[0],
            key=identity[1],
        )
        bao = OpenBao.start(tmp_path / "bao", authority, seal)
        try:
            assert bao.ask("GET", "sys/seal-status")["sealed"] is False
            bao.make_key("vm")
        finally:
            bao.kill()
        used = {item.operation for message in server.seen for item in message.items}
        assert used == {Operation.DISCOVER_VERSIONS, Operation.GET_ATTRIBUTES, ENCRYPT, DECRYPT}
