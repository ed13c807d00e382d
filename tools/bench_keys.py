"""What the keys of ten thousand VMs cost, as at a host's restart: wall time, and CPU a key.

- from the native provider, through keyd: each KEK is derived and unwraps a DEK; the CPU is keyd's and ours
- from a small KMIP server, by the provider alone; the CPU is ours. The server runs in a process of its own,
  or its work would be counted

Take the best of several quiet runs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from ioflt.crypto.secret import Secret
from ioflt.keys.client import KeyClient
from ioflt.keys.kmip.file import KmipServer as Server
from ioflt.keys.kmip.provider import KmipProvider
from ioflt.keys.kmip.store import KmipStore
from ioflt.testing.kmip_server import KmipServer
from ioflt.testing.local_keys import LocalKeys
from ioflt.testing.pykmip import HOST, Authority
from ioflt.types import KeyRef

TRUST_S = 5.0


def serve(pipe: Connection, certificate: tuple[Path, Path], authority: Path, count: int) -> None:
    """The other process: a server with so many keys, until the pipe says to end."""
    with KmipServer(certificate, authority) as server:
        pipe.send((server.port, server.add(count)))
        pipe.recv()


@contextmanager
def kmip(directory: Path, count: int) -> Iterator[tuple[KmipProvider, list[str]]]:
    """A provider, and so many keys of its server."""
    authority = Authority(directory / "pki")
    certificate = authority.issue("server", hosts=(HOST,))
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    arguments = (theirs, certificate, authority.path, count)
    process = multiprocessing.get_context("spawn").Process(target=serve, args=arguments, daemon=True)
    process.start()
    port, ids = ours.recv()
    (directory / "providers").mkdir(mode=0o700)
    store = KmipStore(directory / "providers")
    request = store.create("bench", [Server(host=HOST, port=port)], TRUST_S, csr=True)
    store.install("bench", authority.sign(request))
    store.trust_authority("bench", authority.path.read_text())
    provider = KmipProvider(store.load("bench"), store)
    try:
        yield provider, ids
    finally:
        provider.close()
        ours.send(None)
        process.join()


def from_kmip(provider: KmipProvider, ids: list[str]) -> None:
    provider.close()
    if not all(isinstance(key, Secret) for key in provider.get(ids)):
        raise SystemExit("not every key came")


def native(count: int) -> list[tuple[KeyRef, bytes, bytes]]:
    """So many keys, and a DEK that each wraps."""
    with LocalKeys(Path(os.environ["IOFLT_HOME"])) as local:
        keys = [local.new_key() for _ in range(count)]
        return [(key, local.generate(key, [b"aad"])[0][1], b"aad") for key in keys]


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(what: str, count: int, work: Callable[[], None], cpu: Callable[[], float]) -> None:
    wall, used = time.monotonic(), cpu()
    work()
    wall, used = time.monotonic() - wall, cpu() - used
    print(f"{count:,} keys from {what}: {wall:.2f} s, {used / count * 1000:.4f} ms of CPU a key")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keys", type=int, default=10_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="default: %(default)s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ioflt-bench-") as temporary:
        directory = Path(temporary)
        os.environ["IOFLT_HOME"] = str(directory / "home")
        (directory / "home").mkdir(mode=0o700)
        items = native(options.keys)
        with KeyClient.connect() as keys:
            pid = keys.status().pid

            def unwrap() -> None:
                if not all(isinstance(dek, Secret) for dek in keys.unwrap(items)):
                    raise SystemExit("not every key came")

            for _ in range(options.runs):
                keys.lock("refuse")  # forgets them
                keys.unlock()
                measure("native", options.keys, unwrap, lambda: cpu_of(pid) + time.process_time())
            keys.stop()
        with kmip(directory, options.keys) as (provider, ids):
            for _ in range(options.runs):
                measure("KMIP", options.keys, lambda: from_kmip(provider, ids), time.process_time)
    return 0


if __name__ == "__main__":
    sys.exit(main())
