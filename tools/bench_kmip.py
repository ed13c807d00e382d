"""What fetching keys from a KMIP server costs the client: wall time and CPU a key, against a small server.

The server runs in a process of its own, or its work would be counted. Take the best of several quiet runs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from ioflt.crypto.secret import Secret
from ioflt.keys.kmip.file import KmipServer as Server
from ioflt.keys.kmip.provider import KmipProvider
from ioflt.keys.kmip.store import KmipStore
from ioflt.testing.kmip_server import KmipServer
from ioflt.testing.pykmip import HOST, Authority

TRUST_S = 5.0


def serve(pipe: Connection, certificate: tuple[Path, Path], authority: Path, count: int) -> None:
    """The other process: a server with so many keys, until the pipe says to end."""
    with KmipServer(certificate, authority) as server:
        pipe.send((server.port, server.add(count)))
        pipe.recv()


def measure(provider: KmipProvider, ids: list[str]) -> tuple[float, float]:
    """Seconds of wall time and of this process's CPU for all keys."""
    provider.close()
    wall, cpu = time.monotonic(), time.process_time()
    found = provider.get(ids)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    if not all(isinstance(key, Secret) for key in found):
        raise SystemExit("not every key came")
    return wall, cpu


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keys", type=int, default=10_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="default: %(default)s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ioflt-bench-") as temporary:
        directory = Path(temporary)
        authority = Authority(directory / "pki")
        certificate = authority.issue("server", hosts=(HOST,))
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        arguments = (theirs, certificate, authority.path, options.keys)
        process = multiprocessing.get_context("spawn").Process(target=serve, args=arguments)
        process.start()
        port, ids = ours.recv()
        (directory / "providers").mkdir(mode=0o700)
        store = KmipStore(directory / "providers")
        request = store.create("bench", [Server(host=HOST, port=port)], TRUST_S, csr=True)
        store.install("bench", authority.sign(request))
        store.trust_authority("bench", authority.path.read_text())
        provider = KmipProvider(store.load("bench"), store)
        for _ in range(options.runs):
            wall, cpu = measure(provider, ids)
            print(
                f"{len(ids)} keys: {wall:.2f} s, {len(ids) / wall:.0f} keys/s,"
                f" {cpu / len(ids) * 1000:.4f} ms of CPU a key"
            )
        provider.close()
        ours.send(None)
        process.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
