"""A process that does a deep recrypt: for tests that end it. KEYS DATASTORE MODE."""

import sys
from pathlib import Path

from ioflt.datastore.deep import home, journal
from ioflt.datastore.volume import Volume
from ioflt.errors import IofltError
from ioflt.testing.local_keys import LocalKeys

journal.SEGMENT = 32 << 10

keys_at, datastore, mode = sys.argv[1:]
with LocalKeys(Path(keys_at)) as keys, Volume.open(datastore, keys) as volume:
    try:
        home.recrypt(volume, "web", mode=mode)  # type: ignore[arg-type]
    except IofltError as error:
        sys.exit(str(error))
