"""A host that opens its keys by itself: the commands and keyd, with swtpm and tangd."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.key_peers import TANGD, Tang, Tpm

PASSPHRASE = "pass"  # a file


class Host:
    """Runs `ioflt`, with a provider `corp` that was made under a passphrase and backed up."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / PASSPHRASE).touch(mode=0o600)
        (directory / PASSPHRASE).write_text("correct horse")
        self.must("provider", "create", "native", "corp", "--passphrase-file", PASSPHRASE)
        own = ("--passphrase-file", PASSPHRASE, "--provider-passphrase-file", PASSPHRASE)
        self.must("provider", "backup", "corp", "corp.p12", *own)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ioflt", *arguments],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def must(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def seal_to(self, *slot: str) -> None:
        """Let nothing but that slot open the provider."""
        self.must("provider", "slot", "add", "corp", *slot, "--provider-passphrase-file", PASSPHRASE)
        self.must("provider", "slot", "remove", "corp", "passphrase")

    def restart(self) -> None:
        """keyd forgets all it knows; the next command starts a new one."""
        self.must("keyd", "stop")

    def check(self, running: AbstractContextManager[None], says: str) -> None:
        """A datastore opens while what the provider is sealed to is there, and only then."""
        with running:
            self.must("datastore", "init", "ds", "--provider", "corp")
            self.restart()
            self.must("check", "ds")
        self.must("check", "ds")  # cached keys stay
        self.restart()
        refused = self.run("datastore", "recrypt", "ds")
        assert refused.returncode == 4
        assert says in refused.stderr
        assert "hint:" in refused.stderr


@pytest.fixture
def host(tmp_path: Path, ioflt_home: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.run("keyd", "stop")


@pytest.mark.interop("clevis", "socat", TANGD)
def test_tang(host: Host, tmp_path: Path) -> None:
    server = Tang.make(tmp_path / "tang")
    with server.running():
        host.seal_to("tang", "--url", server.url, "--thumbprint", server.thumbprint)
    host.check(server.running(), f"the tang server at {server.url}")
    with server.running():
        host.must("datastore", "show", "ds")


@pytest.mark.interop("swtpm")
def test_tpm(host: Host, short_tmp: Path) -> None:
    tpm = Tpm(short_tmp)
    with tpm.running():
        host.seal_to("tpm2", "--tcti", tpm.tcti)
        assert "PCR 7 at swtpm:" in host.must("provider", "slot", "list", "corp")
    host.check(tpm.running(), "the TPM at swtpm:")
    with tpm.running():
        host.must("datastore", "show", "ds")
        host.restart()
        tpm.extend(7)
        refused = host.run("datastore", "show", "ds")
    assert "the machine's state (PCRs) is not that of the seal" in refused.stderr


@pytest.mark.interop("swtpm")
def test_tpm_with_a_pin(host: Host, short_tmp: Path) -> None:
    tpm = Tpm(short_tmp)
    pin = host.directory / "pin"
    pin.touch(mode=0o600)
    pin.write_text("1234")
    with tpm.running():
        where = ("--tcti", tpm.tcti, "--pin", "--passphrase-file", "pin")
        host.must("provider", "slot", "add", "corp", "tpm2", *where, "--provider-passphrase-file", PASSPHRASE)
        host.must("provider", "slot", "remove", "corp", "passphrase", "--provider-passphrase-file", "pin")
        host.restart()
        refused = host.run("datastore", "init", "ds", "--provider", "corp")
        assert "the provider corp waits for its passphrase" in refused.stderr
        assert "ioflt keyd unlock corp" in refused.stderr
        wrong = host.run("keyd", "unlock", "corp", "--passphrase-file", PASSPHRASE)
        assert "wrong PIN for the provider corp" in wrong.stderr
        host.must("keyd", "unlock", "corp", "--passphrase-file", "pin")
        host.must("datastore", "init", "ds", "--provider", "corp")
