"""The process of a bed's mount: `ioflt.fuse`'s, with a filter under every file that can be made to fail.

No other mount has it: this module replaces what `datastore` puts at the bottom of its chains, in its own
process.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from ioflt.fuse import hook

#: Names the file of the switches.
VARIABLE: Final = "IOFLT_TESTBED_SWITCHES"


def main() -> int:
    """The exit code is 0 after an orderly end."""
    hook.install()  # has to come before pyfuse3 is imported
    from ioflt.datastore import container, files
    from ioflt.filters.backing import Backing
    from ioflt.filters.base import Link
    from ioflt.filters.written import Within
    from ioflt.fuse import process
    from ioflt.testing.testbed.faulty import Faulty, Switches

    switches = Switches(Path(os.environ[VARIABLE]))

    def bottom(fd: int, start: int, written: Within | None = None) -> Link:
        return Faulty(Backing(fd, start, written), fd, switches)

    for module in (container, files):
        vars(module)["Backing"] = bottom
    return process.main()


if __name__ == "__main__":
    sys.exit(main())
