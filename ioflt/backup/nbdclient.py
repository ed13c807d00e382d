"""A disk that some server exports over NBD, read as a virtual disk.

Its bytes by nbdfuse, which shows them as a file; what is allocated of it by nbdinfo.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from ioflt import hygiene, paths
from ioflt.backup import children
from ioflt.backup.disk import check_inside
from ioflt.errors import NotFoundError, PeerError, StorageError, UsageError
from ioflt.types import Area

#: Seconds until a server that does not answer is given up.
READY_S: Final = 60.0
_END_S: Final = 30.0

#: nbdinfo's description of a disk of a million areas is 100 MB long; who has more of them is not believed.
_MAX_AREAS: Final = 1 << 20

#: The bit of an area's type in `base:allocation` that says that it reads as zeros.
_ZERO: Final = 2


class NbdDisk:
    """What `disk.VirtualDisk` says. What is exported does not change meanwhile."""

    def __init__(self, uri: str) -> None:
        """Connects. Raises PeerError; NotFoundError when a program is not installed, StorageError."""
        self._uri = uri
        self._fd = -1
        self._areas: list[Area] = []
        self._directory = Path(tempfile.mkdtemp(prefix="nbd-", dir=paths.find().ensure().run))
        self._file = self._directory / "disk"
        self._server: subprocess.Popen[bytes] | None = None
        try:
            self._file.touch(0o600)
            self._server = self._serve()
            self._fd = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
            self.capacity = os.fstat(self._fd).st_size
            self._areas = _allocated(uri)  # while nbdfuse is connected: a ticket is good for one client
            self._starts = [area.start for area in self._areas]
        except BaseException:  # nobody else closes it
            self.close()
            raise

    def read(self, offset: int, length: int) -> bytes:
        """See `VirtualDisk.read`."""
        self._require(offset, length)
        pieces = []
        while length:
            try:
                piece = os.pread(self._fd, length, offset)
            except OSError as error:
                raise StorageError(
                    "cannot read the exported disk", error.errno or 0, file=self._uri
                ) from error
            if not piece:
                raise PeerError("the exported disk became shorter", file=self._uri)
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def areas(self, offset: int = 0, length: int | None = None) -> Iterator[Area]:
        """See `VirtualDisk.areas`."""
        length = self.capacity - offset if length is None else length
        self._require(offset, length)
        end = offset + length
        for area in self._areas[max(0, bisect_right(self._starts, offset) - 1) :]:
            start, stop = max(area.start, offset), min(area.start + area.length, end)
            if area.start >= end:
                break
            if start < stop:
                yield Area(start, stop - start)

    def close(self) -> None:
        """May be called again."""
        if self._fd >= 0:
            with suppress(OSError):  # nbdfuse died
                os.close(self._fd)
            self._fd = -1
        if self._server is not None:
            _end(self._server, self._file)
            self._server = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> NbdDisk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _require(self, offset: int, length: int) -> None:
        if self._fd < 0:
            raise UsageError("the disk is closed", file=self._uri)
        check_inside(self.capacity, offset, length)

    def _serve(self) -> subprocess.Popen[bytes]:
        ready, told = os.pipe()
        try:
            command = ["nbdfuse", "-r", "-P", f"/dev/fd/{told}", str(self._file), *_server(self._uri)]
            server = _popen(command, (told,))
            os.close(told)
            told = -1
            if select.select([ready], [], [], READY_S)[0] and os.read(ready, 32):  # its pid
                return server
        finally:
            os.close(ready)
            if told >= 0:
                os.close(told)
        server.kill()
        raise PeerError(f"cannot connect to the exported disk: {_last_word(server)}", file=self._uri)


def _server(uri: str) -> list[str]:
    """What nbdfuse is told of the server: one with a ticket by nbdkit, as nbdfuse reads no key file."""
    parts = urlsplit(uri)
    keys = parse_qs(parts.query).get("tls-psk-file")
    if not keys:
        return [uri]
    plugin = ["nbd", f"hostname={parts.hostname}", f"port={parts.port}", f"export={unquote(parts.path[1:])}"]
    secured = ["tls=require", f"tls-username={parts.username}", f"tls-psk={keys[0]}"]
    return ["[", "nbdkit", "--exit-with-parent", "--readonly", *plugin, *secured, "]"]


def _allocated(uri: str) -> list[Area]:
    """What the server says is not all zeros, in order, and apart from each other."""
    process = _popen(["nbdinfo", "--json", "--map", uri], stdout=subprocess.PIPE)
    try:
        said, _ = process.communicate(timeout=READY_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise PeerError("the server of the exported disk does not answer", file=uri) from None
    if process.returncode != 0:
        raise PeerError(f"cannot tell what is allocated: {_last_word(process)}", file=uri)
    found: list[Area] = []
    position = 0
    try:
        entries = json.loads(said)
        if len(entries) > _MAX_AREAS:
            raise ValueError
        for entry in entries:
            start, length, kind = int(entry["offset"]), int(entry["length"]), int(entry["type"])
            if start != position or length <= 0:
                raise ValueError
            position += length
            if kind & _ZERO:
                continue
            if found and found[-1].start + found[-1].length == start:
                found[-1] = Area(found[-1].start, found[-1].length + length)
            else:
                found.append(Area(start, length))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise PeerError("nbdinfo's answer makes no sense", file=uri) from None
    return found


def _popen(
    command: list[str], descriptors: tuple[int, ...] = (), stdout: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """The program, which ends with this process, whatever thread starts it."""
    made: list[subprocess.Popen[bytes] | OSError] = []
    known = threading.Event()

    def parent() -> None:  # the kernel tells a child of the end of the thread that started it
        try:
            made.append(
                subprocess.Popen(
                    command,
                    pass_fds=descriptors,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                    cwd="/",
                    preexec_fn=lambda: hygiene.end_with_parent(signal.SIGTERM),  # nbdfuse unmounts, and ends
                )
            )
            pidfd = os.pidfd_open(made[0].pid)  # type: ignore[union-attr]  # no error came
        except OSError as error:
            made.append(error)
            return
        finally:
            known.set()
        select.select([pidfd], [], [])
        os.close(pidfd)

    threading.Thread(target=parent, name=command[0], daemon=True).start()
    known.wait()
    if isinstance(made[-1], FileNotFoundError):
        raise NotFoundError(f"{command[0]} is not installed, or not in the PATH")
    if isinstance(made[-1], OSError):
        raise PeerError(f"cannot start {command[0]}: {made[-1].strerror}")
    return made[-1]


def _end(server: subprocess.Popen[bytes], file: Path) -> None:
    """Have nbdfuse unmount and end, also when whom it asks hangs, or is gone: then it may have died."""
    children.end(server, _END_S)
    try:
        file.stat()
    except OSError:  # a mount that nobody serves
        command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
        subprocess.run([*command, str(file)], capture_output=True, check=False)
    if server.stderr is not None:
        server.stderr.close()


def _last_word(process: subprocess.Popen[bytes]) -> str:
    """What a program that has ended, or was killed, said last."""
    _, said = process.communicate()
    lines = said.decode(errors="backslashreplace").splitlines()
    return next((line for line in reversed(lines) if line.strip()), "it says nothing")
