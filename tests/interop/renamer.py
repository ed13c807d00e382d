"""A process that renames a file of the VM web as a mount does: for tests that end it.

Arguments: DATASTORE OLD NEW
"""

import sys

from ioflt.datastore import namespace
from ioflt.datastore.volume import Volume
from ioflt.errors import IofltError
from ioflt.keys.client import KeyClient

datastore, old, new = sys.argv[1:]
try:
    with KeyClient.connect() as keys, Volume.open(datastore, keys) as volume:
        home = volume.home("web")
        move = namespace.Move(
            home, home.fd, old, home, home.fd, new, flags=0, is_dir=False, top=False, new_top=False
        )
        namespace.rename(move, None)
except (IofltError, OSError) as error:  # what a mount answers by an errno
    sys.exit(str(error))
