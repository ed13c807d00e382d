"""The process of one mount: arguments, log, and the word to whoever started it."""

from __future__ import annotations

import argparse
import logging
import os
from contextlib import closing

from ioflt import paths
from ioflt.access import principals
from ioflt.errors import IofltError, PeerError
from ioflt.fuse.broker import Broker
from ioflt.fuse.log import LogFile
from ioflt.fuse.mount import Options, run
from ioflt.keys.client import KeyClient
from ioflt.wire import failure, readiness
from ioflt.wire.failure import Failure
from ioflt.wire.readiness import Serves


def main() -> int:
    """Mount and serve; the exit code is 0 after an orderly end."""
    parser = argparse.ArgumentParser(prog="ioflt.fuse", description="the process of one ioflt mount")
    parser.add_argument("datastore")
    parser.add_argument("mountpoint")
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--allow-other", action="store_true")
    parser.add_argument("--no-exec", action="store_true")
    parser.add_argument("--held", metavar="VM", help="its lock is kept by who starts this")
    parser.add_argument("--as", dest="principal", metavar="PRINCIPAL", type=principals.parse)
    parser.add_argument("--ready-fd", type=int, required=True, metavar="N")
    parser.add_argument("--log-to-stderr", action="store_true")
    arguments = parser.parse_args()
    os.umask(0o077)
    options = Options(
        arguments.datastore,
        arguments.mountpoint,
        arguments.read_only,
        arguments.allow_other,
        arguments.no_exec,
        arguments.principal,
        arguments.held,
    )
    told = False

    def tell(what: Serves | Failure) -> None:
        nonlocal told
        if not told:
            told = True
            os.write(arguments.ready_fd, readiness.write(what))
            os.close(arguments.ready_fd)

    try:
        _open_log(to_stderr=arguments.log_to_stderr)
        broker = Broker.fork(paths.find(), options.mountpoint, options.principal, arguments.ready_fd)
        with closing(broker), KeyClient.connect(broker.reach_keyd) as keys:
            os.umask(0)  # modes come from the callers, whose own umask was applied
            run(options, keys, broker, tell)
    except IofltError as error:
        logging.getLogger("ioflt.mount").error("%s", error)
        tell(failure.of(error))
        return 1
    except Exception as error:  # whoever started this must hear of it, and the log of where
        logging.getLogger("ioflt.mount").exception("cannot mount")
        tell(failure.of(PeerError(f"cannot mount: {error}")))
        return 1
    return 0


def _open_log(*, to_stderr: bool) -> None:
    handler: logging.Handler
    if to_stderr:
        handler = logging.StreamHandler()
    else:
        handler = LogFile(paths.find().ensure().logs / "mount.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
