"""An export in a process of its own, for who reads the disk himself: it ends with him.

The process writes a line of JSON to `--ready-fd`: what a client needs, or a Failure. It ends when the other
end of `--reader-fd` is closed, however that comes about.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec

from ioflt import hygiene
from ioflt.backup import export
from ioflt.backup.export import Asked, Exported, Transport
from ioflt.backup.nbdclient import NbdDisk
from ioflt.datastore.volume import Volume
from ioflt.errors import IofltError, PeerError
from ioflt.keys.starter import environment
from ioflt.wire import failure
from ioflt.wire.failure import Failure

_END_S: Final = 60.0


def main() -> int:
    """Export until the reader is gone; the exit code is 0 after an orderly end."""
    parser = argparse.ArgumentParser(prog="ioflt.backup", description="the process of one export of a disk")
    parser.add_argument("datastore", type=Path)
    parser.add_argument("vm")
    parser.add_argument("disk")
    parser.add_argument("transport", choices=["nbd", "nbdssl"])
    parser.add_argument("--ready-fd", type=int, required=True, metavar="N")
    parser.add_argument("--held", action="store_true")
    parser.add_argument("--reader-fd", type=int, required=True, metavar="N")
    arguments = parser.parse_args()
    hygiene.forbid_dumps()
    os.umask(0o077)
    os.set_inheritable(arguments.ready_fd, False)
    os.set_inheritable(arguments.reader_fd, False)

    def tell(what: Exported | Failure) -> None:
        with suppress(BrokenPipeError):  # the reader is gone, which ends it
            os.write(arguments.ready_fd, msgspec.json.encode(what) + b"\n")

    asked = Asked(arguments.datastore, arguments.vm, arguments.disk, arguments.transport, held=arguments.held)
    try:
        export.run(asked, tell, lambda _: None, reader=arguments.reader_fd)
    except KeyboardInterrupt:
        return 130
    except IofltError as error:
        tell(failure.of(error))
        return 1
    except Exception as error:  # whoever started this must hear of it
        tell(failure.of(PeerError(f"cannot export: {error}")))
        return 1
    return 0


class Exporter:
    """The process of an export. A context manager; `exported` is what a client needs."""

    def __init__(self, volume: Volume, vm: str, disk: str, transport: Transport = "nbd") -> None:
        """Returns once it serves. Raises the IofltError for which it cannot."""
        ready, told = os.pipe()
        reader, self._reader = os.pipe()
        self._said = open(ready, "rb")  # noqa: SIM115  # open as long as the process lives
        arguments = [volume.path, vm, disk, transport, f"--ready-fd={told}", f"--reader-fd={reader}"]
        arguments += ["--held"] if volume.home(vm).held else []
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ioflt.backup", *arguments],
                pass_fds=(told, reader),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                env=environment(),
            )
        except BaseException:  # nobody else closes them
            os.close(self._reader)
            self._said.close()
            raise
        finally:
            os.close(told)
            os.close(reader)
        try:
            answer = _understood(self._said.readline())
            if isinstance(answer, IofltError):
                raise answer
            self.exported = answer
        except BaseException:  # nobody else ends it
            self.close()
            raise

    def fileno(self) -> int:
        """Readable when it has ended, or is about to."""
        return self._said.fileno()

    def failure(self) -> IofltError:
        """Why it ended by itself."""
        answer = _understood(self._said.readline())
        return answer if isinstance(answer, IofltError) else PeerError("the export serves twice")

    def close(self) -> None:
        """End it, and return when nothing of it is left. May be called again."""
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._said.close()

    def __enter__(self) -> Exporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ExportedDisk(NbdDisk):
    """A disk that is read over an export of its own, which ends with it."""

    def __init__(self, volume: Volume, vm: str, disk: str, transport: Transport) -> None:
        """Raises the IofltError for which it cannot be exported, or read."""
        self._exporter = Exporter(volume, vm, disk, transport)
        try:
            super().__init__(self._exporter.exported.uri)
        except BaseException:  # nobody else ends it
            self._exporter.close()
            raise

    def close(self) -> None:
        """May be called again."""
        super().close()
        self._exporter.close()


def open_nbd(volume: Volume, vm: str, disk: str) -> NbdDisk:
    """By a unix socket."""
    return ExportedDisk(volume, vm, disk, "nbd")


def open_nbdssl(volume: Volume, vm: str, disk: str) -> NbdDisk:
    """By TLS on this host, with a ticket that no other client uses."""
    return ExportedDisk(volume, vm, disk, "nbdssl")


def _understood(line: bytes) -> Exported | IofltError:
    try:
        told = msgspec.json.decode(line, type=Exported | Failure)
    except msgspec.DecodeError:
        return PeerError("the export's process ended without a word; see mount.log")
    return failure.rebuild(told) if isinstance(told, Failure) else told
