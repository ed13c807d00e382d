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


class ExportedDisk(NbdDisk):
    """A disk that is read over an export of its own, which ends with it."""

    def __init__(self, volume: Volume, vm: str, disk: str, transport: Transport) -> None:
        """Raises the IofltError for which it cannot be exported, or read."""
        ready, told = os.pipe()
        reader, self._reader = os.pipe()
        arguments = [volume.path, vm, disk, transport, f"--ready-fd={told}", f"--reader-fd={reader}"]
        arguments += ["--held"] if volume.home(vm).held else []
        try:
            self._exporter = subprocess.Popen(
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
            os.close(ready)
            raise
        finally:
            os.close(told)
            os.close(reader)
        try:
            with open(ready, "rb") as pipe:
                answer = _understood(pipe.readline())
            if isinstance(answer, IofltError):
                raise answer
            super().__init__(answer.uri)
        except BaseException:  # nobody else ends it
            self._end()
            raise

    def close(self) -> None:
        """May be called again."""
        super().close()
        self._end()

    def _end(self) -> None:
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1
            try:
                self._exporter.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._exporter.kill()
                self._exporter.wait()


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
