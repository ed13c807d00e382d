"""Standard streams that the caller closed."""

from __future__ import annotations

import os
import sys


def fill_closed() -> None:
    """Open what is closed of standard input, output and error as /dev/null.

    Their numbers would go to the next files opened: a socket, a container, and be written to as output.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(opened, opened == number)
            setattr(sys, name, open(opened, "w" if number else "r", closefd=False))  # noqa: SIM115 for good
