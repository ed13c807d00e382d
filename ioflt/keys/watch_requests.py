"""The requests to keyd about what is written to a VM that runs, and its writes that wait."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from ioflt.errors import PeerError
from ioflt.keys.asking import Answer, Asker
from ioflt.keys.link import Link
from ioflt.wire import failure
from ioflt.wire.failure import Failure
from ioflt.wire.keyd import replies, requests


class WatchedVm:
    """A VM whose mounts keyd asks, as long as this is open. For one thread. Each raises what they answer."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def take_written(self) -> Iterator[tuple[int, int, int, int]]:
        """What was written since it is watched, or since it was taken last: device and inode number of a
        stored file, offset and length in bytes.
        """
        more = True
        while more:
            answer = self._ask(requests.TakeVmWritten(), replies.VmWritten)
            yield from answer.areas
            more = answer.more

    def hold(self, limit: int) -> None:
        """All is written back, and writes wait until `resume`, or for so many seconds."""
        self._ask(requests.HoldVm(limit), replies.Done)

    def resume(self) -> None:
        """They go on. Raises BusyError where they did before, or another mount of it began."""
        self._ask(requests.ResumeVm(), replies.Done)

    def close(self) -> None:
        """Nothing waits any more. May be called again."""
        self._link.close()

    def __enter__(self) -> WatchedVm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: requests.RequestBody, kind: type[Answer]) -> Answer:
        answer = self._link.call(request)
        if isinstance(answer, Failure):
            raise failure.rebuild(answer)
        if not isinstance(answer, kind):
            raise PeerError(f"keyd answered a {type(request).__name__} with a {type(answer).__name__}")
        return answer


class WatchRequests(Asker):
    def watch_vm(self, home_id: str, shown: str, device: int, inode: int) -> WatchedVm:
        """The mounts of that VM, whose directory has those numbers, note what is written to it.

        Raises DeniedError, NotFoundError where no mount shows it, PeerError where one does not answer.
        """
        link, _ = self._ask_alone(requests.WatchVm(home_id, shown, device, inode), replies.Done)
        return WatchedVm(link)
