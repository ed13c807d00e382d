"""What this host remembers of homes, off the datastore: how far each one came, and where it lay.

One file per home id, JSON: the highest generation of its record that was seen, and the directories in which
it was seen by who may write. A home of a lower generation is an old one that was put back. Of a home that
is not remembered the providers of its keys are asked, where these keep generations: once, and again as long
as they do not answer.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

_log = logging.getLogger(__name__)

_MAX_PLACES = 16

#: Changes whenever something else is remembered.
Stamp = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Seen:
    """`generation`: the highest that was seen; `places`: absolute paths, the latest last.

    `asked`: whether the providers of its keys could be asked which generation other hosts saw.
    """

    generation: int = 0
    places: tuple[str, ...] = ()
    asked: bool = True


class Memory:
    """Over a directory, which is made when it is needed. Safe for several threads and processes."""

    def __init__(self, directory: Path) -> None:
        self._directory = os.fspath(directory)
        self._met: dict[str, frozenset[str]] = {}

    def stamp(self, home_id: str) -> Stamp | None:
        """Identifies what is remembered of the home now."""
        try:
            info = os.stat(f"{self._directory}/{home_id}")
        except OSError:
            return None
        return info.st_ino, info.st_mtime_ns

    def look(self, home_id: str) -> Seen:
        """What is remembered of the home."""
        try:
            with open(self._path(home_id), "rb") as file:
                text = file.read()
            if not text.strip(b"\0"):  # what was not `durable`, after a power cut: empty, or zeros on ext4
                return Seen(asked=False)
            found = json.loads(text)
            places = tuple(map(str, found["places"]))
            return Seen(int(found["generation"]), places, bool(found.get("asked", True)))
        except FileNotFoundError:
            return Seen()
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("what was remembered of the home %s cannot be read: %s", home_id, error)
            return Seen()

    def note(
        self,
        home_id: str,
        generation: int,
        place: str | None,
        gone: tuple[str, ...] = (),
        *,
        durable: bool = True,
        asked: bool | None = None,
    ) -> None:
        """Remember that the home lies at `place` and has come so far; no more at those `gone`.

        `asked`: as in `Seen`; None leaves it.
        `durable=False` is for a home that was never seen, which would be seen again after a power cut: a
        first look at 10,000 of them does not wait for 20,000 syncs. A host that cannot remember goes on, and
        says so.
        """
        try:
            with self._locked() as directory_fd:
                before = self.look(home_id)
                places = tuple(one for one in before.places if one not in (*gone, place))
                if place is not None:
                    places = (*places, place)
                asked = before.asked if asked is None else asked
                seen = Seen(max(generation, before.generation), places, asked)
                self._write(directory_fd, home_id, seen, durable=durable)
        except OSError as error:
            _log.warning("this host cannot remember the home %s: %s", home_id, error)

    def meet(self, home_id: str, *places: str) -> None:
        """Homes of that id lie there whose records nobody verified: for this object only, never noted.

        Otherwise two directories in one datastore could speak for a home in another.
        """
        self._met[home_id] = self.met(home_id).union(places)

    def met(self, home_id: str) -> frozenset[str]:
        """Where homes of that id were met."""
        return self._met.get(home_id, frozenset())

    def _write(self, directory_fd: int, home_id: str, seen: Seen, *, durable: bool) -> None:
        told = {"generation": seen.generation, "places": list(seen.places[-_MAX_PLACES:])}
        text = json.dumps(told if seen.asked else told | {"asked": False})
        path = self._path(home_id)
        fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(text.encode())
            if durable:
                file.flush()
                os.fsync(fd)
        os.rename(f"{path}.new", path)
        if durable:
            os.fsync(directory_fd)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        with suppress(FileExistsError):
            os.makedirs(self._directory, mode=0o700)
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)

    def _path(self, home_id: str) -> str:
        return f"{self._directory}/{UUID(home_id)}"
