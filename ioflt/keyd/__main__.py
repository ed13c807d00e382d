"""`python -m ioflt.keyd`: the daemon. Started by `keys.starter` or by an init system."""

from __future__ import annotations

import argparse
import contextlib
import logging
import logging.handlers
import os
import sys
from pathlib import Path

import trio

from ioflt import __version__, confinement, hygiene, paths
from ioflt.audit.event import added
from ioflt.datastore.memory import Memory
from ioflt.errors import IofltError
from ioflt.keyd import accounts
from ioflt.keyd.access import Access
from ioflt.keyd.authority import Authority
from ioflt.keyd.denials import Denials
from ioflt.keyd.holdings import Holdings
from ioflt.keyd.home_ids import HomeIds
from ioflt.keyd.permits import Rules
from ioflt.keyd.recorder import event
from ioflt.keyd.server import Server
from ioflt.keyd.service import Service
from ioflt.keyd.shared_keys import SharedKeys
from ioflt.keyd.tenants import Tenants
from ioflt.keyd.upkeep import Upkeep
from ioflt.keys.starter import READY
from ioflt.transport.listener import Listener

#: Bytes of a log file; one older one is kept.
_LOG_SIZE = 1 << 20

_log = logging.getLogger("ioflt.keyd")


def main() -> int:
    """Serve until told to stop. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="ioflt.keyd", description="ioflt's key-cache daemon")
    parser.add_argument("--detach", action="store_true", help="go on in the background")
    parser.add_argument(
        "--ready-fd", type=int, metavar="N", help="write 'ready' there when connections are taken"
    )
    options = parser.parse_args()
    os.umask(0o077)
    if options.detach and os.fork() != 0:
        os._exit(0)
    try:
        hygiene.harden()
        hygiene.raise_descriptor_limit()
        where = paths.find().ensure()
        _open_log(where.logs / "keyd.log")
        access = Access.of_this_process(system=where.system)
        _open_to_group(where, access.group)
        mode = 0o600 if access.group is None else 0o660
        with Listener(where.keyd_socket, mode, access.group, inherited=_handed_over()) as listener:
            if options.detach:
                _detach()
            _confine(where)
            return _serve(where, access, listener, options.ready_fd)
    except (IofltError, OSError) as error:
        _tell(options.ready_fd, str(error).encode(errors="backslashreplace"))
        print(f"ioflt keyd: {error}", file=sys.stderr)
        return 1


def _serve(where: paths.Paths, access: Access, listener: Listener, ready_fd: int | None) -> int:
    service = Service(where)
    authority = Authority(where.access, accounts.user(os.geteuid()))
    denials = Denials(service.recorder)
    holdings, home_ids = Holdings(SharedKeys(where.shared_keys)), HomeIds(where.home_ids)
    rules = Rules(authority, holdings, home_ids, Memory(where.homes), denials)
    service.recorder.tell_folders(Tenants(authority, rules.holdings).hear)

    service.recorder.record_if_possible(event("keyd start", changes=[added("keyd.version", __version__)]))

    def ready() -> None:
        _log.info("serves %s, pid %d", where.keyd_socket, os.getpid())
        _tell(ready_fd, READY)

    try:
        with Upkeep(service):
            trio.run(Server(service, access, rules).serve, listener, ready)
    finally:
        denials.tell_rest()
        service.close()
    return 0


def _confine(where: paths.Paths) -> None:
    """keyd hears strangers on its socket and key servers. It writes nothing but what is its own, and what
    systemd-creds and other programs that open providers need.
    """
    others = (Path("/dev"), Path("/tmp"), Path("/var/lib/systemd"))  # noqa: S108  # no file of ours
    writable = (where.state, where.run, *(place for place in others if place.is_dir()))
    for lack in confinement.confine(writable, None, outwards=True):
        _log.warning("keyd is less confined than it could be: %s", lack)


def _handed_over() -> int | None:
    """The socket that systemd listens on for us: sd_listen_fds(3), its first descriptor."""
    mine = os.environ.pop("LISTEN_PID", "") == str(os.getpid())
    count = os.environ.pop("LISTEN_FDS", "0")
    return 3 if mine and count == "1" else None


def _open_log(path: Path) -> None:
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_SIZE, backupCount=1, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _open_to_group(where: paths.Paths, group: int | None) -> None:
    """Let the group through to the socket."""
    if group is not None:
        os.chown(where.run, -1, group)


def _detach() -> None:
    """Hold on to nothing of whoever started us."""
    with contextlib.suppress(PermissionError):
        os.setsid()  # refused to a session's leader, which we are not
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def _tell(ready_fd: int | None, message: bytes) -> None:
    """Say how the start went; whoever waits may have gone."""
    if ready_fd is None:
        return
    with contextlib.suppress(OSError):
        os.write(ready_fd, message)
        os.close(ready_fd)


if __name__ == "__main__":
    sys.exit(main())
