"""The mounts of this host, asked over their control sockets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from ioflt.crypto.secret import Secret
from ioflt.errors import BusyError, DeniedError, PeerError
from ioflt.format.cbt.changeid import ChangeId
from ioflt.keys.channel import Channel, Receiver
from ioflt.paths import Paths
from ioflt.transport import unix
from ioflt.types import KeyRef
from ioflt.wire import failure
from ioflt.wire.control import messages
from ioflt.wire.control.connection import replies, write
from ioflt.wire.control.messages import Home, LockMode
from ioflt.wire.failure import Failure
from ioflt.wire.frame import wipe
from ioflt.wire.keyd.values import Key

#: Seconds that a mount may take to answer; to lock and to quiesce it writes back all it has.
TIMEOUT = 600.0

Answer = TypeVar("Answer", bound=messages.ReplyBody)


class MountControl:
    """A connection to one mount, for one thread at a time. Every call raises what the mount answers."""

    def __init__(self, path: Path, timeout: float = TIMEOUT) -> None:
        """Connect to the control socket at `path`; `timeout`: seconds that each answer may take.

        Raises NotListening, DeniedError, PeerError.
        """
        self.path = path
        self.timeout = timeout
        sock = unix.connect(path, timeout)
        self._channel = Channel(sock, f"the mount at {path.name}")
        self._replies: Receiver[messages.ReplyBody] = replies()
        try:
            if unix.peer_of(sock).uid not in (0, os.geteuid()):
                raise DeniedError("the socket is served by another user", file=path)
            self.status = self._ask(messages.Hello(messages.VERSION), messages.Status)
        except BaseException:  # nobody else closes it
            self.close()
            raise

    def refresh(self) -> messages.Status:
        """The mount's status now."""
        self.status = self._ask(messages.Hello(messages.VERSION), messages.Status)
        return self.status

    def lock(self, mode: LockMode) -> messages.Locked:
        """Write back, forget the keys, block I/O. Raises BusyError in mode "refuse" while files are open."""
        answer = self._ask_any(messages.Lock(mode))
        if isinstance(answer, messages.Busy):
            names = ", ".join(answer.open[:3]) + (", …" if len(answer.open) > 3 else "")
            raise BusyError(f"files are open: {names}", file=self.status.mountpoint)
        return _expect(answer, messages.Locked)

    def unlock(self) -> None:
        """Let I/O go on."""
        self._ask(messages.Unlock(), messages.Done)

    def add_keyslot(self, path: str, passphrase: Secret) -> int:
        """Add a recovery passphrase to a file's container. Returns the keyslot's number."""
        sent = bytearray(passphrase.view())
        try:
            return self._ask(messages.AddKeyslot(path, sent), messages.Keyslot).number
        finally:
            wipe(sent)

    def remove_keyslot(self, path: str, number: int) -> None:
        """Remove a recovery passphrase."""
        self._ask(messages.RemoveKeyslot(path, number), messages.Done)

    def restore_header(self, path: str, backup: bytes) -> None:
        """Put a header backup in place."""
        self._ask(messages.RestoreHeader(path, backup), messages.Done)

    def rewrap(self, path: str, ensure: Sequence[KeyRef], drop: Sequence[KeyRef]) -> None:
        """Change the KEKs that open a file."""
        keys = [tuple(map(Key.of, some)) for some in (ensure, drop)]
        self._ask(messages.Rewrap(path, *keys), messages.Done)

    def quiesce(self, limit: int | None = None, home: Home | None = None) -> None:
        """Write everything back; writes wait until `resume`, until this connection is closed, or for `limit`
        seconds. `home`: all this of that VM alone.

        Raises BusyError where its writes wait for somebody else, NotFoundError.
        """
        self._ask(messages.Quiesce(limit, home), messages.Done)

    def resume(self) -> None:
        """End `quiesce`. Raises BusyError where the limit ended it before."""
        self._ask(messages.Resume(), messages.Done)

    def watch(self, home: Home) -> None:
        """From now on the mount notes what is written to stored files of that VM. Raises NotFoundError."""
        self._ask(messages.Watch(home), messages.Done)

    def take_written(self) -> messages.WrittenAreas:
        """What was written since `watch`, or since it was taken last, or the first part of it."""
        return self._ask(messages.TakeWritten(), messages.WrittenAreas)

    def invalidate(self, path: str) -> None:
        """Tell the mount that a file was changed under it."""
        self._ask(messages.Invalidate(path), messages.Done)

    def track_changes(self, path: str, *, on: bool) -> bool:
        """Track changed blocks of a file, or no more; False when it was so already."""
        return self._ask(messages.TrackChanges(path, on), messages.Tracked).changed

    def take_change_id(self, path: str, at_least: int) -> ChangeId:
        """The change id of this moment, of a sequence no lower than that."""
        taken = self._ask(messages.TakeChangeId(path, at_least), messages.ChangeIdTaken)
        return ChangeId(taken.uuid, taken.sequence)

    def changes(self, path: str, since: int | None) -> tuple[bytes, int, list[tuple[int, int]]]:
        """UUID and length of a file, and its areas (offset, length) that changed after that sequence; None:
        that are allocated."""
        found: list[tuple[int, int]] = []
        start = 0
        while True:
            answer = self._ask(messages.ChangedAreas(path, since, start), messages.Areas)
            found += answer.areas
            if answer.end >= answer.length:
                return answer.uuid, answer.length, found
            if answer.end <= start:
                raise PeerError("the mount does not come to an end of a file's areas", file=path)
            start = answer.end

    def close(self) -> None:
        """Close the connection. May be called again."""
        self._channel.close()

    def __enter__(self) -> MountControl:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: messages.RequestBody, kind: type[Answer]) -> Answer:
        return _expect(self._ask_any(request), kind)

    def _ask_any(self, request: messages.RequestBody) -> messages.ReplyBody:
        answer = self._channel.exchange(write(request), self._replies, self.timeout)
        if isinstance(answer, Failure):
            raise failure.rebuild(answer)
        return answer


def sockets(where: Paths) -> list[Path]:
    """The control sockets of this user's or host's mounts, stale ones included."""
    return sorted(where.mounts.glob("*.sock"))


def _expect(answer: messages.ReplyBody, kind: type[Answer]) -> Answer:
    if not isinstance(answer, kind):
        raise PeerError(f"the mount answered with a {type(answer).__name__}")
    return answer
