"""`ioflt backup export` of a bed: its private mount can be made to fail as the bed's own can."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ioflt.backup import privatemount
from ioflt.cli.main import main
from ioflt.errors import PeerError
from ioflt.keys.starter import environment
from ioflt.testing.testbed import guest
from ioflt.testing.testbed.bed import SERVICE, Bed

_MODULE = "ioflt.testing.testbed"

_END_S = 60.0


@contextmanager
def exported(bed: Bed) -> Iterator[str]:
    """Serve the VM's disk for the bed's service while a block runs; its URI. Raises PeerError."""
    what = (bed.datastore / guest.NAME, guest.DISK, "--for", SERVICE, "--json")
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", f"{_MODULE}.export", "backup", "export", *map(str, what)],
        env=environment() | bed.variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        told = server.stdout.readline() if server.stdout is not None else ""
        if not told:
            raise PeerError(f"ioflt backup export: {server.communicate()[1].strip()}")
        yield json.loads(told)["uri"]
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=_END_S)


if __name__ == "__main__":
    vars(privatemount)["PROGRAM"] = f"{_MODULE}.mount"
    sys.exit(main())
