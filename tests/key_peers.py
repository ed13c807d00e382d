"""What slots of the native provider are sealed to, each the real thing: a TPM 2.0 and a tang server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import PATIENCE_S

TANGD = "/usr/libexec/tangd"


@contextmanager
def process(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a session of its own, which is ended with all that it started."""
    started = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield started
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()


@dataclass
class Tpm:
    """swtpm with a state of its own, at a unix socket."""

    directory: Path

    @property
    def tcti(self) -> str:
        return f"swtpm:path={self.directory}/tpm"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Started anew each time, as by a reboot: PCRs are zero."""
        server, control = self.directory / "tpm", self.directory / "tpm.ctrl"
        for path in (server, control):
            path.unlink(missing_ok=True)
        with process(
            *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.directory}"),
            *("--server", f"type=unixio,path={server}", "--ctrl", f"type=unixio,path={control}"),
            *("--flags", "not-need-init,startup-clear"),
        ) as started:
            wait_until(lambda: all(map(_listens, (control, server))), started)
            yield

    def extend(self, pcr: int) -> None:
        """Change a PCR, as another boot loader would."""
        import tpm2_pytss as tss

        name, _, config = self.tcti.partition(":")
        with tss.TCTILdr(name, config) as tcti, tss.ESAPI(tcti) as tpm:
            digests = tss.TPML_DIGEST_VALUES(
                [tss.TPMT_HA(hashAlg=tss.TPM2_ALG.SHA256, digest=tss.TPMU_HA(sha256=bytes(range(32))))]
            )
            tpm.pcr_extend(getattr(tss.ESYS_TR, f"PCR{pcr}"), digests)


@dataclass
class Tang:
    """tangd over socat on 127.0.0.1, with keys of its own."""

    directory: Path
    port: int

    @classmethod
    def make(cls, directory: Path) -> Tang:
        directory.mkdir()
        subprocess.run([f"{TANGD}-keygen", directory], check=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return cls(directory, probe.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def thumbprint(self) -> str:
        """As tang-show-keys prints it: of the key that signs."""
        for path in self.directory.glob("*.jwk"):
            if '"verify"' in path.read_text():
                return path.stem
        raise AssertionError("tangd-keygen made no key that signs")

    @contextmanager
    def running(self) -> Iterator[None]:
        with process(
            "socat",
            f"TCP-LISTEN:{self.port},bind=127.0.0.1,fork,reuseaddr",
            f"EXEC:{TANGD} {self.directory}",
        ) as started:
            wait_until(self._answers, started)
            yield

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Something at its place that takes connections and says nothing."""
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            listener.listen()
            yield

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _listens(path: Path) -> bool:
    """Whether a server takes connections there: in 1 of 400 starts its socket has a name before."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def wait_until(condition, started: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert started.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server does not come up"
        time.sleep(0.01)
