"""`python -m ioflt` is `ioflt`."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """As `ioflt.cli.main.main`. Ctrl-C while its modules are loaded ends it as it ends any program."""
    heard = signal.getsignal(signal.SIGINT)
    if heard is signal.default_int_handler:  # else it is ignored, and stays so
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ioflt.cli.main import main as run

    signal.signal(signal.SIGINT, heard)
    return run()


if __name__ == "__main__":
    sys.exit(main())
