"""A small Linux guest under TCG, in one of its modes; see images/recipes/guest.sh."""

from __future__ import annotations

import json
import re
import selectors
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

#: Seconds until a guest that says nothing is given up: TCG on a busy machine is slow.
PATIENCE_S = 120.0


def images() -> Path:
    """The directory that holds the guest, made at first use."""
    cache = ROOT / ".cache" / "images"
    subprocess.run([ROOT / "images" / "recipes" / "guest.sh", cache], check=True)
    return cache / "guest"


def kernel() -> tuple[Path, Path]:
    """Debian's kernel for clouds, and the directory of its modules; fetched at first use."""
    cache = ROOT / ".cache" / "images"
    subprocess.run([ROOT / "images" / "recipes" / "kernel.sh", cache], check=True)
    (modules,) = (cache / "kernel" / "lib" / "modules").iterdir()
    return cache / "kernel" / "vmlinuz", modules


class Guest:
    """One qemu process. Context manager; leaves no process behind.

    `qmp` is a monitor that nobody uses.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        disk: Path,
        *arguments: object,
        mode: str = "writer",
        form: str = "raw",
        incoming: str | None = None,
    ) -> None:
        self._name = name
        self.qmp = directory / f"{name}.free-qmp"
        self._qmp_path = directory / f"{name}.qmp"
        self._serial_path = directory / f"{name}.serial"
        where = images()
        command = [
            *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "256", "-smp", "1"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-kernel", where / "vmlinuz", "-initrd", where / "initrd.gz"),
            *("-append", f"console=ttyS0 quiet panic=-1 guest.mode={mode}"),
            *("-drive", f"file={disk},format={form},if=virtio,cache=none"),
            *("-qmp", f"unix:{self._qmp_path},server=on,wait=off"),
            *("-qmp", f"unix:{self.qmp},server=on,wait=off"),
            *("-serial", f"unix:{self._serial_path},server=on,wait=off"),
            *arguments,
        ]
        if incoming is not None:
            command += ["-incoming", incoming]
        self._log = (directory / f"{name}.log").open("wb+")
        self.process = subprocess.Popen(list(map(str, command)), stdout=self._log, stderr=self._log)
        self._heard = ""
        self._qmp_buffer = b""
        try:
            self._serial = self._connect(self._serial_path)
            self._qmp = self._connect(self._qmp_path)
            self._read_message()  # the greeting
            self.command("qmp_capabilities")
        except BaseException:
            self._kill()
            raise

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_error: object) -> None:
        self._serial.close()
        self._qmp.close()
        self._kill()

    def command(self, execute: str, **arguments: object) -> Any:
        """A QMP command's answer. Events are passed over."""
        request = {"execute": execute, "arguments": arguments}
        self._qmp.sendall(json.dumps(request).encode() + b"\n")
        while True:
            message = self._read_message()
            assert "error" not in message, message
            if "return" in message:
                return message["return"]

    def wait_status(self, command: str, *wanted: str) -> dict[str, Any]:
        """Ask until the status is one of these."""
        end = time.monotonic() + PATIENCE_S
        while (answer := self.command(command)).get("status") not in wanted:
            assert time.monotonic() < end, answer
            assert answer.get("status") != "failed", answer
            time.sleep(0.02)
        return dict(answer)

    def say(self, line: str) -> None:
        self._serial.sendall(line.encode() + b"\n")

    def hear(self, pattern: str) -> str:
        """Wait for text on the serial line; what of it came before is dropped."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._serial, selectors.EVENT_READ)
            end = time.monotonic() + PATIENCE_S
            while not (found := re.search(pattern, self._heard)):
                assert selector.select(max(0.0, end - time.monotonic())), f"silence after: {self._heard}"
                data = self._serial.recv(65536)
                assert data, f"{self._name} ended: {self._heard}{self._messages()}"
                self._heard += data.decode(errors="replace")
        self._heard = self._heard[found.end() :]
        return found[0]

    def beats(self, count: int) -> int:
        """Wait for that many heartbeats; the number of the last."""
        return max(int(self.hear(r"beat \d+\r").split()[1]) for _ in range(count))

    def end(self) -> None:
        """Have qemu quit, and wait for it."""
        self._qmp.sendall(b'{"execute": "quit"}\n')
        self.process.wait(PATIENCE_S)

    def _connect(self, path: Path) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                sock.connect(str(path))
                return sock
            except (FileNotFoundError, ConnectionRefusedError):
                assert self.process.poll() is None, self._messages()
                assert time.monotonic() < end
                time.sleep(0.01)

    def _read_message(self) -> dict[str, Any]:
        while b"\n" not in self._qmp_buffer:
            data = self._qmp.recv(65536)
            assert data, f"{self._name} ended: {self._messages()}"
            self._qmp_buffer += data
        line, _, self._qmp_buffer = self._qmp_buffer.partition(b"\n")
        return dict(json.loads(line))

    def _messages(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def _kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()
