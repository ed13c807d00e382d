"""A process that erases a VM: for tests that end it. KEYS DATASTORE."""

import sys
from pathlib import Path

from ioflt.datastore import erase
from ioflt.datastore.volume import Volume
from ioflt.errors import IofltError
from ioflt.testing.local_keys import LocalKeys

keys_at, datastore = sys.argv[1:]
with LocalKeys(Path(keys_at)) as keys, Volume.open(datastore, keys) as volume:
    try:
        erase.erase(volume, "web")
    except IofltError as error:
        sys.exit(str(error))
