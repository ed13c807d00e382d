"""`python -m ioflt` is `ioflt`."""

import sys

from ioflt.cli.main import main

sys.exit(main())
