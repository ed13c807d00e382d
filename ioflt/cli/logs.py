"""What libraries log while a command runs, told as the command's own warnings."""

from __future__ import annotations

import logging
import traceback


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from ioflt.cli.session import warn_once

        if record.exc_info and record.exc_info[0] is not None:  # a bug, after which the command goes on
            traceback.print_exception(*record.exc_info)
        warn_once([record.getMessage()])


def show_warnings() -> None:
    """From now on what is logged from WARNING on goes to standard error as `ioflt: warning: …`."""
    logging.getLogger("ioflt").addHandler(_Warnings(logging.WARNING))
