"""One disk of a VM, served over NBD by qemu-nbd from a private mount, until somebody or something ends it.

One process sees to it all, in one thread: it starts mount and server, which are killed if it dies, and then
waits for what comes first: a signal, the end of its ticket, the end of one of both, or keyd's word that whom
it serves may not any more. At the end no server, no mount and no private directory is left; keyd is told why.
"""

from __future__ import annotations

import os
import pwd
import select
import socket
import stat
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

import msgspec

from ioflt import paths
from ioflt.access.principals import Kind, Principal
from ioflt.backup import bitmap, direct, pinned, signals
from ioflt.backup.known import ENDED, Known
from ioflt.backup.listening import Address, listen_on, listen_unix
from ioflt.backup.nbdserver import Account, NbdServer, Served
from ioflt.backup.place import Place
from ioflt.backup.privatemount import PrivateMount, leave_mounts
from ioflt.backup.signals import Told
from ioflt.backup.ticket import Ticket
from ioflt.datastore import cbt
from ioflt.datastore.home import Home
from ioflt.datastore.volume import Volume
from ioflt.errors import DeniedError, PeerError, UsageError
from ioflt.format.cbt.changeid import ChangeId
from ioflt.keys import starter
from ioflt.keys.client import KeyClient

#: What keyd is told that its connections are for, and what the table of operations calls it.
OPERATION: Final = "backup export"

#: Seconds for which a ticket is good unless another time is asked for.
TICKET_S: Final = 3600

Transport = Literal["nbd", "nbdssl"]


@dataclass(frozen=True, slots=True)
class Asked:
    """`disk` is a path in the VM's home. `certificates`: TLS by certificates instead of a ticket."""

    datastore: Path
    vm: str
    disk: str
    transport: Transport = "nbd"
    listen: Address | None = None
    principal: Principal | None = None
    certificates: Path | None = None
    seconds: int = TICKET_S
    #: Clients are told what changed since.
    since: ChangeId | None = None
    #: Whoever asks keeps everybody else from the VM meanwhile.
    held: bool = False

    @property
    def name(self) -> str:
        """Of the export: a client that asks for another one is refused."""
        return f"{self.vm}/{self.disk}"


class Exported(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="exported"):
    """What a client needs. `ticket` is its name, `psk_file` where its key is, `bitmap` the metadata context
    with what changed.
    """

    uri: str
    export: str
    format: str
    transport: Transport
    socket: str | None
    ticket: str | None
    psk_file: str | None
    until: int | None
    bitmap: str | None
    pid: int


def run(
    asked: Asked, ready: Callable[[Exported], None], say: Callable[[str], None], *, reader: int | None = None
) -> str:
    """Export; call `ready` once clients are served, and `say` with what the server complains of.

    Returns why it ended, where that is as it should be: its ticket was used, SIGTERM or SIGINT, or the other
    end of the pipe `reader` was closed. Raises the IofltError for which it cannot be or is not any more, and
    KeyboardInterrupt for a signal before.
    """
    where = paths.find().ensure()
    if where.joined:  # its process has the keys
        raise DeniedError("root makes the mounts of this machine")
    _check(asked)
    account = _account(asked.principal)
    try:
        with signals.heard(), Place.make(where) as place, _keys(asked) as keys:
            return _Export(asked, place, keys, account, ready, say, reader).run()
    except Told as told:
        raise KeyboardInterrupt(str(told)) from None


def _check(asked: Asked) -> None:
    """Raises UsageError for what does not go together."""
    if (
        asked.disk != os.path.normpath(asked.disk)
        or asked.disk.startswith(("/", "../"))
        or asked.disk in ".."
    ):
        raise UsageError("not a path in a VM", file=asked.disk)
    if asked.certificates is not None and asked.transport != "nbdssl":
        raise UsageError("certificates are for the transport nbdssl")
    if asked.certificates is not None and (
        asked.principal is None or asked.principal.kind is not Kind.SERVICE
    ):
        raise UsageError("with certificates an export is for a service, by whose certificate it is known")
    if asked.transport == "nbd" and asked.listen is not None and not asked.listen.local:
        raise UsageError(f"without TLS no other address than 127.0.0.1 is listened on, not {asked.listen}")


def _account(principal: Principal | None) -> Account | None:
    """The server of root's export for a user is his process: file modes count, and FUSE admits no other.

    Raises UsageError, DeniedError where he would not come to it.
    """
    if principal is None or principal.kind is not Kind.USER or os.geteuid() != 0:
        return None
    try:
        found = pwd.getpwnam(principal.name)
    except KeyError:
        raise UsageError(f"no user {principal.name} on this machine") from None
    groups = set(os.getgrouplist(found.pw_name, found.pw_gid))
    if found.pw_uid == 0:
        return None
    where = paths.find().run
    run = where.stat()
    if run.st_gid == 0 and not run.st_mode & stat.S_IXOTH:
        raise DeniedError("is entered by root alone, not by whom the export is for", file=where)
    return Account(found.pw_uid, found.pw_gid, tuple(sorted(groups | {run.st_gid} - {0})))


def _keys(asked: Asked) -> KeyClient:
    where, who = paths.find(), None if asked.principal is None else str(asked.principal)
    return KeyClient.connect(
        lambda start: starter.greet(where, start=start, operation=OPERATION, as_principal=who)
    )


class _Export:
    def __init__(
        self,
        asked: Asked,
        place: Place,
        keys: KeyClient,
        account: Account | None,
        ready: Callable[[Exported], None],
        say: Callable[[str], None],
        reader: int | None,
    ) -> None:
        self._asked = asked
        self._place = place
        self._keys = keys
        self._account = account
        self._ready = ready
        self._say = say
        self._reader = [] if reader is None else [reader]
        self._ticket: Ticket | None = None
        self._format = ""
        self._bitmap: Path | None = None
        self._at = asked.listen

    def run(self) -> str:
        asked = self._asked
        if asked.transport == "nbdssl" and asked.certificates is None:
            self._ticket = Ticket.write(self._place.client, asked.seconds)
        with Volume.open(asked.datastore, self._keys, read_only=True) as volume:
            home = volume.home(asked.vm)
            # QEMU is told, and guesses nothing: what a guest wrote at the start of its disk makes no image of
            # it, and a chain that the library would not read is not served.
            with direct.open_file(volume, asked.vm, asked.disk) as disk:
                self._format = disk.format
            if asked.since is not None:
                self._mark_changes(volume, home, asked.since)
            with Known(self._keys, home, asked.disk, asked.transport, self._ticket) as known:
                known.reason = self._serve(volume, known)
                return known.reason

    def _mark_changes(self, volume: Volume, home: Home, since: ChangeId) -> None:
        """Raises ChangesUnknownError, NotFoundError for a disk that is not tracked."""
        asked = self._asked
        areas = cbt.query(home, asked.disk, since, held=asked.held)
        with direct.open_file(volume, asked.vm, asked.disk) as disk:
            capacity = disk.capacity
        self._bitmap = bitmap.make(self._place.client, capacity, areas)

    def _serve(self, volume: Volume, known: Known) -> str:
        asked = self._asked
        with ExitStack() as stack:
            listening, exported = self._listen()
            stack.callback(listening.close)
            leave_mounts()
            mount = stack.enter_context(
                PrivateMount(
                    Path(volume.path),
                    self._place.mountpoint,
                    asked.principal,
                    asked.vm if asked.held else None,
                )
            )
            if self._account is not None:
                self._place.give(self._account.uid, self._account.gid)
            home = self._place.mountpoint / asked.vm
            served = Served(home, home / asked.disk, self._format, asked.name, account=self._account)
            if self._bitmap is not None:
                served = replace(served, bitmap=self._bitmap)
            server = stack.enter_context(NbdServer(self._secured(served), listening))
            server.wait_ready(self._connect(exported))
            try:
                self._ready(exported)
                return self._watch(mount, server, known)
            except Told as told:
                return f"ended by {told}"

    def _listen(self) -> tuple[socket.socket, Exported]:
        asked, ticket = self._asked, self._ticket
        at = asked.listen or (Address("127.0.0.1", 0) if asked.transport == "nbdssl" else None)
        made, path = None, None
        if at is None:
            path = str(self._place.client / "nbd")
            made = listen_unix(path)
            uri = f"nbd+unix:///{quote(asked.name)}?socket={quote(path)}"
        else:
            made = listen_on(at)
            at = replace(at, port=made.getsockname()[1])
            scheme = "nbds" if asked.transport == "nbdssl" else "nbd"
            who = f"{ticket.name}@" if ticket else ""
            query = f"?tls-psk-file={quote(str(ticket.file))}" if ticket else ""
            uri = f"{scheme}://{who}{at}/{quote(asked.name)}{query}"
            self._at = at
        return made, Exported(
            uri,
            asked.name,
            self._format,
            asked.transport,
            path,
            ticket.name if ticket else None,
            str(ticket.file) if ticket else None,
            ticket.until if ticket else None,
            None if asked.since is None else bitmap.CONTEXT,
            os.getpid(),
        )

    def _connect(self, exported: Exported) -> socket.socket:
        if self._at is None:
            connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connected.connect(str(exported.socket))
            return connected
        return self._at.connect()

    def _secured(self, served: Served) -> Served:
        """With what TLS needs."""
        if self._ticket is not None:
            directory = self._place.client
            options = (f"--object=tls-creds-psk,id=tls,dir={directory},endpoint=server", "--tls-creds=tls")
            return replace(served, once=True, options=options, readable=(directory,))
        if self._asked.certificates is not None and self._asked.principal is not None:
            directory = self._place.path / "tls"
            places = pinned.make(directory, self._asked.certificates, self._fingerprint())
            options = (
                f"--object=tls-creds-x509,id=tls,dir={directory},endpoint=server,verify-peer=on,sanity-check=off",
                "--tls-creds=tls",
            )
            return replace(served, options=options, readable=(directory, *places))
        return served

    def _fingerprint(self) -> str:
        """Of the certificate by which the service is known. Raises UsageError."""
        principal = self._asked.principal
        with KeyClient.connect(operation="service list") as own:
            services = own.access().services
        found = [each for each in services if principal == Principal(Kind.SERVICE, each.name)]
        if not found:
            raise UsageError(f"no such service: {principal and principal.name}")
        if found[0].certificate is None:
            raise UsageError(f"the {principal} was made without a certificate")
        return found[0].certificate

    def _watch(self, mount: PrivateMount, server: NbdServer, known: Known) -> str:
        """Until it ends. Raises the IofltError for which it has to."""
        served = os.pidfd_open(mount.pid)
        try:
            while True:
                left = None if self._ticket is None else self._ticket.left
                keyd, said = known.fileno(), server.fileno()
                ready = select.select([served, said, keyd, *self._reader], [], [], left)[0]
                if keyd in ready:
                    known.hear()
                if served in ready:
                    raise PeerError("the mount ended in the middle of the export; see mount.log")
                if any(reader in ready for reader in self._reader):
                    return "its reader closed it"
                if said in ready and (reason := self._hear_server(server)) is not None:
                    return reason
                if left == 0:
                    raise DeniedError(f"{ENDED}the time of its ticket is over")
        finally:
            os.close(served)

    def _hear_server(self, server: NbdServer) -> str | None:
        """Why the server ended as it should; None: it goes on. Raises PeerError."""
        for line in server.hear():
            self._say(line)
        code = server.ended()
        if code is None:
            return None
        if code == 0 and self._ticket is not None:
            return "its ticket was used"
        raise server.failure("ended in the middle of the export")
