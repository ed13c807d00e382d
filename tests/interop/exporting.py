"""`ioflt backup export` as its users have it, and what of it is still there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from ioflt import paths
from tests.waiting import PATIENCE_S, eventually


class Export:
    """A running one. Use it in a `with`: it ends with it, by SIGKILL if it has to."""

    def __init__(self, *arguments: object, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ioflt", "backup", "export", *map(str, arguments), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        #: What it printed once it served; nothing when it did not come to that.
        self.said: dict[str, Any] = json.loads(line) if line else {}

    @property
    def uri(self) -> str:
        uri = self.said["uri"]
        assert isinstance(uri, str)
        return uri

    def wait(self) -> tuple[int, str]:
        """Its exit code, and what it wrote to standard error, once it has ended."""
        _, stderr = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, stderr

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        return self.wait()

    def children(self, program: str) -> list[int]:
        """Processes of that name that it started."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_text()
            except OSError:  # gone, or no process
                continue
            if int(fields[1]) == self.process.pid and program in command:
                found.append(int(entry.name))
        return found

    def __enter__(self) -> Export:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def left() -> list[str]:
    """Private directories of exports that are still there."""
    top = paths.find().exports
    return sorted(path.name for path in top.iterdir() if path.is_dir()) if top.exists() else []


def processes(export_of: Path) -> list[str]:
    """Servers and mounts of exports of that datastore."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        mount = "ioflt.fuse" in command and f"{export_of} " in command and "/exports/" in command
        if mount or ("qemu-nbd" in command and str(paths.find().exports) in command):
            found.append(command)
    return found


def gone(datastore: Path) -> None:
    """Nothing of any export of it is there, or soon is not."""
    eventually(lambda: not processes(datastore))


def run(*command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(each) for each in command], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done
