"""How keyd is asked: connections to it, and what is done when it dies or has forgotten what it was shown.

Locks: the pool of idle connections has one. A call has a connection for itself, so calls from several threads
run side by side; nobody holds the lock while waiting for keyd. Make the client after the last fork.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

from ioflt import paths
from ioflt.errors import BugError, PeerError, UnshownError
from ioflt.keys import starter
from ioflt.keys.channel import ConnectionLost
from ioflt.keys.link import Link
from ioflt.keys.shown import ShownRecords
from ioflt.transport.unix import NotListening
from ioflt.wire import failure
from ioflt.wire.failure import Failure
from ioflt.wire.keyd import replies, requests
from ioflt.wire.keyd.messages import VERSIONS

#: Connections kept for the next call.
MAX_IDLE = 8

#: How often a call is made, or a keyd started, when one keyd after the other is killed meanwhile.
TRIES = 4

Answer = TypeVar("Answer", bound=replies.ReplyBody)

#: A greeted connection to keyd; true: which is started when it is not running.
Reach = Callable[[bool], Link]


@dataclass(frozen=True, slots=True)
class Shown:
    """What became of records that were shown. `helps`: keyd may answer otherwise now."""

    helps: bool = False
    #: Why it could not say of one whether it is valid: its key is out of reach.
    unverified: Failure | None = None

    def reason(self, told: Failure) -> Failure:
        """Why a request fails. That nobody has shown a record is not why, where one could not be verified."""
        return self.unverified if self.unverified is not None and _is_unshown(told) else told


def _is_unshown(told: Failure) -> bool:
    return told.error == UnshownError.__name__


class Asker:
    """keyd, asked over its socket. Starts it when it is not running, and again when it died in a call."""

    def __init__(
        self,
        *,
        start: bool = True,
        reach: Reach | None = None,
        operation: str = "",
        versions: tuple[int, ...] = VERSIONS,
    ) -> None:
        """Connects at the first call. `start=False`: a call raises NotListening when no keyd is running.

        `operation`: what the client is for, by which keyd decides what it may. `reach` is for who may not
        connect by himself, and has that said in his place. `versions` of the protocol, for who asks nothing
        that is in one of them alone.
        """
        self._paths: Final = paths.find()
        self._start = start
        self._reach: Reach = reach or (
            lambda start: starter.greet(self._paths, start=start, operation=operation, versions=versions)
        )
        self._lock = threading.Lock()
        self._idle: list[Link] = []
        self._shown = ShownRecords()

    @classmethod
    def connect(cls, reach: Reach | None = None, *, operation: str = "") -> Self:
        """A client that has reached keyd, started if need be. Raises PeerError, DeniedError."""
        client = cls(reach=reach, operation=operation)
        client._give_back(client._connect(start=True))
        return client

    def close(self) -> None:
        """Close idle connections. The client stays usable."""
        with self._lock:
            idle, self._idle = self._idle, []
        for link in idle:
            link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: requests.RequestBody, kind: type[Answer]) -> Answer:
        answer = self._call(request)
        if isinstance(answer, Failure):
            shown = self._show([answer], request)
            if shown.helps:
                answer = self._call(request)
            if isinstance(answer, Failure):
                raise failure.rebuild(shown.reason(answer))
        if not isinstance(answer, kind):
            raise PeerError(f"keyd answered a {type(request).__name__} with a {type(answer).__name__}")
        return answer

    def _ask_alone(self, request: requests.RequestBody, kind: type[Answer]) -> tuple[Link, Answer]:
        """The same over a connection that nothing else is asked over, and the connection: its caller's."""
        link = self._connect(start=self._start)
        try:
            answer = link.call(request)
            if isinstance(answer, Failure) and _is_unshown(answer):
                for record in self._shown.about(request):
                    link.call(record)
                answer = link.call(request)
            if isinstance(answer, Failure):
                raise failure.rebuild(answer)
            if not isinstance(answer, kind):
                raise PeerError(f"keyd answered a {type(request).__name__} with a {type(answer).__name__}")
        except BaseException:  # nobody else closes it
            link.close()
            raise
        return link, answer

    def _show(self, failures: Iterable[Failure], request: requests.RequestBody) -> Shown:
        """Show a keyd that started since what it has not seen."""
        if not any(map(_is_unshown, failures)):
            return Shown()
        answers = [self._call(record) for record in self._shown.about(request)]
        checked = [answer for answer in answers if isinstance(answer, replies.Checked)]
        unverified = (one for answer in checked for one in answer.results if isinstance(one, Failure))
        return Shown(bool(checked), next(unverified, None))

    def _call(self, request: requests.RequestBody) -> replies.ReplyBody:
        for tries_left in reversed(range(TRIES)):
            link = self._take_link()
            try:
                answer = link.call(request)
            except ConnectionLost:
                # keyd died, now or since the last call: nothing is lost by asking a new one.
                link.close()
                self.close()
                if not tries_left:
                    raise
            except BaseException:  # half an answer may be left on it
                link.close()
                raise
            else:
                self._give_back(link)
                return answer
        raise BugError("no try was left, and none was made")

    def _take_link(self) -> Link:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._connect(start=self._start)

    def _give_back(self, link: Link) -> None:
        with self._lock:
            if len(self._idle) < MAX_IDLE:
                self._idle.append(link)
                return
        link.close()

    def _connect(self, *, start: bool) -> Link:
        try:
            return self._reach(False)
        except (NotListening, ConnectionLost):  # it is not there, or is just going
            if not start:
                raise
        for tries_left in reversed(range(TRIES)):
            try:
                return self._reach(True)
            except (NotListening, ConnectionLost):  # it was killed while it started
                if not tries_left:
                    raise
        raise BugError("no try was left, and none was made")
