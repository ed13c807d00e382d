"""A user who asks keyd for data keys of a VM as if he were about each operation: prints, as JSON, those for
which he got the VM's VMX.

peeker.py DATASTORE VM
"""

from __future__ import annotations

import json
import sys

from ioflt.access.operations import OPERATIONS
from ioflt.crypto.secret import Secret
from ioflt.datastore import exchange
from ioflt.datastore.volume import Volume
from ioflt.errors import DeniedError
from ioflt.keys.client import KeyClient


def main() -> None:
    directory, name = sys.argv[1:]
    got = []
    for operation in OPERATIONS:
        try:
            with (
                KeyClient.connect(operation=operation) as keys,
                Volume.open(directory, keys, read_only=True) as volume,
                Secret(b"secret") as passphrase,
            ):
                exchange.export(volume, name, passphrase)
        except DeniedError:
            continue
        got.append(operation)
    print(json.dumps(got))


if __name__ == "__main__":
    main()
