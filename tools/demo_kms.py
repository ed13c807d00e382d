"""The demo's key servers: two of PyKMIP on one database, and the trust between them and the provider."""

from __future__ import annotations

import json
from pathlib import Path

from rich.text import Text

from demo_common import IOFLT, Proofs, Stopped, console, ioflt, must, run, step
from ioflt.testing.pykmip import HOST, Authority, PyKmip

PROVIDER = "corp"

#: The exit code of a check that found something.
_FOUND = 13


class KeyServers:
    """Both servers, their authority, and what their administrator does."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._servers: list[PyKmip] = []

    def start(self) -> None:
        """Start both. Raises Stopped."""
        step("Two KMIP key servers that share their keys, and a key provider that uses them")
        self._authority = Authority(self._directory, "key servers' authority")
        certificate = self._authority.issue("kms", hosts=(HOST,))
        for name in ("one", "two"):
            try:
                self._servers.append(PyKmip.start(self._directory, self._authority, certificate, name))
            except RuntimeError as error:
                raise Stopped(str(error)) from error
            console.print(Text(f"  key server {name}: PyKMIP at {self._address(-1)}", style="dim"))

    def exchange_trust(self, proofs: Proofs) -> None:
        """Make the provider as a user does, with the certificate that the servers' side signs."""
        request, signed = self._directory / "corp.csr", self._directory / "corp.crt"
        servers = [part for at in range(2) for part in ("--server", self._address(at))]
        ioflt("provider", "create", "kmip", PROVIDER, *servers, "--csr", "--out", request)
        console.print(Text("  the servers' administrator signs corp.csr: corp.crt", style="dim"))
        signed.write_text(self._authority.sign(request.read_text(), days=365))
        ioflt("provider", "trust", PROVIDER, "--certificate", signed, "--ca", self._authority.path)
        tried = ioflt("provider", "test", PROVIDER)
        console.print(Text(tried.rstrip(), style="dim"))
        both = all(f"{self._address(at)}  get it back: done" in tried for at in range(2))
        proofs.add(
            "both key servers and the provider trust each other; a key made on one comes back from both",
            both,
            "ioflt provider test",
        )

    def have_the_keys(self, store: Path, proofs: Proofs) -> None:
        """Every key of the datastore has to be one of theirs."""
        used = {row["key"] for row in json.loads(must(IOFLT, "key", "list", store, "--json"))}
        theirs = {f"{PROVIDER}:{key}" for key in json.loads(must(IOFLT, "key", "locate", PROVIDER, "--json"))}
        proofs.add(
            "every key of the datastore is on the key servers",
            bool(used) and used <= theirs,
            f"{len(used)} keys",
        )

    def kill_one(self, proofs: Proofs) -> None:
        """SIGKILL the one that is in use, the first."""
        gone, left = self._address(0), self._address(1)
        console.print(Text(f"  SIGKILL to the key server at {gone}", style="red"))
        self._servers[0].kill()
        tried = run(IOFLT, "provider", "test", PROVIDER)
        console.print(Text(tried.output.rstrip(), style="dim"))
        proofs.add(
            "one of the two key servers was killed; the other one still makes keys and gives them back",
            not tried.ok and f"{gone}  connect: " in tried.output and f"{left}  destroy it: " in tried.output,
            f"{gone} refuses, {left} answers",
        )

    def end(self, store: Path, proofs: Proofs) -> None:
        """Kill the other one too: now nothing opens."""
        self.kill()
        locked = run(IOFLT, "check", store)
        console.print(Text(locked.output.rstrip(), style="dim"))
        proofs.add(
            "without any key server nothing of the datastore opens, and each server's reason is told",
            locked.code == _FOUND and all(self._address(at) in locked.output for at in range(2)),
            f"exit code {locked.code}",
        )

    def kill(self) -> None:
        """End those that run. May be called again."""
        for server in self._servers:
            server.kill()

    def _address(self, at: int) -> str:
        return f"{HOST}:{self._servers[at].port}"
