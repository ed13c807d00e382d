"""What ioflt sends to make, tag and use a key, field by field, beside what vSphere sends.

`VSPHERE` are the messages of recorded traffic of a vCenter 7.0.3 (KMIP 1.1), written down again. It opens a
connection for each task, offers versions, numbers its items even where there is one, tags in two messages of
three, and asks for a key's state after each Get; what an item says is the same.
"""

from __future__ import annotations

import pytest

import ioflt
from ioflt.testing.kmip_server import KmipServer
from ioflt.wire.kmip import xml
from ioflt.wire.kmip.connection import VERSIONS
from ioflt.wire.kmip.messages import Version
from ioflt.wire.kmip.ttlv import Item
from tests import kmip_peers

ID = '<UniqueIdentifier type="TextString" value="{id}"/>'

#: A key for AES-256, to encrypt and decrypt with (4 | 8): no name, and nothing else.
CREATE = """
  <ObjectType type="Enumeration" value="SymmetricKey"/>
  <TemplateAttribute>
    <Attribute>
      <AttributeName type="TextString" value="Cryptographic Algorithm"/>
      <AttributeValue type="Enumeration" value="AES"/>
    </Attribute>
    <Attribute>
      <AttributeName type="TextString" value="Cryptographic Length"/>
      <AttributeValue type="Integer" value="256"/>
    </Attribute>
    <Attribute>
      <AttributeName type="TextString" value="Cryptographic Usage Mask"/>
      <AttributeValue type="Integer" value="12"/>
    </Attribute>
  </TemplateAttribute>
"""

#: Operations and payloads of a new key that is tagged, activated, and used.
VSPHERE = [
    ("Create", CREATE),
    ("GetAttributes", ID + '<AttributeName type="TextString" value="State"/>'),
    ("Activate", ID),
    *(
        (
            "AddAttribute",
            f"""{ID}
  <Attribute>
    <AttributeName type="TextString" value="{name}"/>
    <AttributeValue type="TextString" value="{{{name}}}"/>
  </Attribute>
""",
        )
        for name in ("x-Vendor", "x-Product", "x-Product_Version", "x-Component", "x-Name", "x-Identifier")
    ),
    ("Get", ID),
]


@pytest.fixture
def server(authority, certificate):
    with KmipServer(certificate, authority.path) as running:
        running.behaviour.versions = (Version(major=1, minor=1),)
        yield running


def expected(operation: str, payload: str, values: dict[str, str]) -> Item:
    """The item of the batch, without its number."""
    text = f"""
<BatchItem>
  <Operation type="Enumeration" value="{operation}"/>
  <RequestPayload>{payload.format_map(values)}</RequestPayload>
</BatchItem>"""
    return xml.decode(xml.parse(text.encode()))


def without_number(item: Item) -> Item:
    assert isinstance(item.value, tuple)
    kept = tuple(child for child in item.value if child.name != "UniqueBatchItemID")
    return Item(item.tag, item.type, kept)


def test_items_are_those_of_vsphere(server, authority, tmp_path):
    provider = kmip_peers.make(kmip_peers.store_in(tmp_path / "providers"), authority, server.port)
    key_id = provider.create()
    provider.get([key_id])
    provider.close()
    greeting, *messages = [message.write() for message in server.seen]
    values = {
        "id": key_id,
        "x-Vendor": "ioflt",  # VMware, Inc.
        "x-Product": "ioflt",  # VMware vSphere
        "x-Product_Version": ioflt.__version__,  # 7.0.3 build-19480866
        "x-Component": "Key provider",  # ESXi Server, or Virtual Machine
        "x-Name": "corp",  # the host's or VM's
        "x-Identifier": provider.file.uuid,  # the host's or VM's
    }
    sent = [without_number(item) for message in messages for item in message.value[1:]]
    assert sent == [expected(operation, payload, values) for operation, payload in VSPHERE]
    assert [len(message.value) - 1 for message in messages] == [1, 1, 1, 6, 1], "tags have their own message"
    versions = "".join(
        f"""
  <ProtocolVersion>
    <ProtocolVersionMajor type="Integer" value="1"/>
    <ProtocolVersionMinor type="Integer" value="{version.minor}"/>
  </ProtocolVersion>"""
        for version in VERSIONS
    )
    assert greeting.value[1:] == (expected("DiscoverVersions", versions, {}),)


def test_headers_say_nothing_but_version_and_number(server, authority, tmp_path):
    """No credential, no time, and what vSphere does not send besides, except for going on after failures."""
    provider = kmip_peers.make(kmip_peers.store_in(tmp_path / "providers"), authority, server.port)
    provider.get([provider.create()])
    provider.close()
    for message in server.seen:
        header = message.write().value[0]
        more = ["BatchErrorContinuationOption"] if len(message.items) > 1 else []
        assert [field.name for field in header.value] == ["ProtocolVersion", *more, "BatchCount"]
        assert str(message.header.version) == "1.1"
