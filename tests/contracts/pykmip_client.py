"""PyKMIP's client at work on a server: PORT, VERSION (such as 1.2), AUTHORITY, CERTIFICATE, KEY.

Prints what it saw as one line of JSON. A process of its own, as the package warns wherever it is imported.
"""

import json
import sys

from kmip.core import enums
from kmip.core.factories.attributes import AttributeFactory
from kmip.pie.client import ProxyKmipClient
from kmip.pie.exceptions import KmipOperationFailure

port, version, authority, certificate, key = sys.argv[1:]
client = ProxyKmipClient(
    hostname="127.0.0.1",
    port=int(port),
    cert=certificate,
    key=key,
    ca=authority,
    ssl_version="PROTOCOL_SSLv23",
    kmip_version=enums.KMIPVersion[f"KMIP_{version.replace('.', '_')}"],
)
seen = {}
with client:
    made = client.create(enums.CryptographicAlgorithm.AES, 256)
    client.activate(made)
    seen["id"], seen["key"] = made, client.get(made).value.hex()
    seen["state"] = client.get_attributes(made, ["State"])[1][0].attribute_value.value.name
    state = AttributeFactory().create_attribute(enums.AttributeType.STATE, enums.State.ACTIVE)
    seen["located"] = client.locate(attributes=[state])
    try:
        client.destroy(made)
    except KmipOperationFailure as error:
        seen["refused"] = error.reason.name
    client.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, made)
    client.destroy(made)
    try:
        client.get(made)
    except KmipOperationFailure as error:
        seen["gone"] = error.reason.name
print(json.dumps(seen))
