"""A process that moves the VM web into another datastore: for tests that end it.

Arguments: KEYS DATASTORE OTHER, and a PROVIDER for a move by renaming. Without it the VM is copied.
"""

import sys
from pathlib import Path

from ioflt.datastore import move
from ioflt.datastore.volume import Volume
from ioflt.testing.local_keys import LocalKeys

keys_at, datastore, other, *provider = sys.argv[1:]
if not provider:  # a move that copies, as between file systems
    move._can_rename = lambda source, _record, target: source is target
with (
    LocalKeys(Path(keys_at)) as keys,
    Volume.open(datastore, keys) as source,
    Volume.open(other, keys) as target,
):
    move.move(source, "web", target, "www", provider=provider[0] if provider else None)
