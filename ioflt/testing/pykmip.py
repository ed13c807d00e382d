"""PyKMIP's server as a peer, and the certificates that it takes. Needs the package `pykmip`.

It keeps keys in clear and speaks TLS 1.2 only: a peer for tests and demonstrations, never a key server.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOST = "127.0.0.1"
_START_S = 30.0

_CONFIG = """[server]
hostname={host}
port={port}
certificate_path={certificate}
key_path={key}
ca_path={ca}
auth_suite=TLS1.2
policy_path={policy}
enable_tls_client_auth=True
logging_level=ERROR
database_path={database}
"""


class Authority:
    """A certificate authority of its own; RSA, as key servers have it."""

    def __init__(self, directory: Path, name: str = "test authority") -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = self._sign(self._name, self._key.public_key(), 3650, ca=True)
        self.path = directory / "ca.pem"
        self.path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, hosts: tuple[str, ...] = (), days: int = 30) -> tuple[Path, Path]:
        """A certificate (of a server when it has `hosts`) and its key, as two PEM files."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._sign(subject, key.public_key(), days, hosts=hosts)
        certificate, private = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        private.touch(0o600)
        private.write_bytes(key.private_bytes(*form))
        return certificate, private

    def sign(self, request: str, days: int = 30) -> str:
        """The certificate for a request, both in PEM."""
        asked = x509.load_pem_x509_csr(request.encode())
        key = asked.public_key()
        if not isinstance(key, rsa.RSAPublicKey):
            raise TypeError("not an RSA key")
        made = self._sign(asked.subject, key, days)
        return made.public_bytes(serialization.Encoding.PEM).decode()

    def _sign(
        self,
        subject: x509.Name,
        key: rsa.RSAPublicKey,
        days: int,
        *,
        hosts: tuple[str, ...] = (),
        ca: bool = False,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=60))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())


@dataclass
class PyKmip:
    """One server process with its helpers, in a session of its own."""

    port: int
    process: subprocess.Popen[bytes]

    @classmethod
    def start(
        cls,
        directory: Path,
        authority: Authority | Path,
        certificate: tuple[Path, Path],
        name: str = "server",
        port: int | None = None,
    ) -> PyKmip:
        """Start one and wait until it takes connections. Those with the same `directory` share their keys.

        `authority`: who signs for its clients, or the file with the certificate of that.
        `port`: of one that was killed, whose place it takes; else any that is free.
        """
        port = free_port() if port is None else port
        place = directory / name
        (place / "policy").mkdir(parents=True)
        config = place / "server.conf"
        config.write_text(
            _CONFIG.format(
                host=HOST,
                port=port,
                certificate=certificate[0],
                key=certificate[1],
                ca=authority if isinstance(authority, Path) else authority.path,
                policy=place / "policy",
                database=directory / "keys.db",
            )
        )
        command = [
            sys.executable,
            "-c",
            "from kmip.services.server.server import main; main()",
            *("-f", str(config), "-l", str(place / "log")),
        ]
        with (place / "output").open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | {"PYTHONWARNINGS": "ignore"},
                cwd=place,
                start_new_session=True,
            )
        server = cls(port, process)
        try:
            server._wait(place / "output")
        except BaseException:  # Ctrl-C, too: no server is left running
            server.kill()
            raise
        return server

    def kill(self) -> None:
        """End it and its helpers at once. May be called again."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def hang(self) -> None:
        """Take connections, as the kernel does that, and answer nobody until `go_on`."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """End `hang`."""
        os.killpg(self.process.pid, signal.SIGCONT)

    def _wait(self, output: Path) -> None:
        end = time.monotonic() + _START_S
        while self.process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1):
                return
            time.sleep(0.05)  # its own start is all there is to wait for
        raise RuntimeError(f"PyKMIP did not start: {output.read_text(errors='replace')[-2000:]}")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
