"""`python -m ioflt.backup`: the process of an export that another process reads. See `exporter`."""

from __future__ import annotations

import sys

from ioflt.backup.exporter import main

if __name__ == "__main__":
    sys.exit(main())
