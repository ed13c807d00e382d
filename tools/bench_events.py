"""What events cost: `python tools/bench_events.py [DIR]`. Writes a log in a directory that it makes in DIR.

Events a second that are written and synced soon, that one caller waits for, that 16 wait for side by side;
seconds to read and to verify all of them.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from ioflt.audit import reader
from ioflt.audit.event import Actor, Event, Thing, fitted, to_json
from ioflt.audit.log import EventLog

SOON, ALONE, CALLERS, EACH = 10_000, 200, 16, 100


def event(number: int) -> bytes:
    thing = Thing("key", f"corp:{number}", f"corp:{number}")
    return to_json(fitted(Event(datetime.now(UTC), Actor("user:alice", 1000, 77), "key use", thing)))


def wait_for(log: EventLog, count: int) -> None:
    for number in range(count):
        log.sync(log.append(event(number)).sequence)


def main(where: str | None) -> None:
    """Measure, and print one line for each."""
    with tempfile.TemporaryDirectory(dir=where) as directory:
        with EventLog(Path(directory)) as log:
            begin = time.perf_counter()
            for number in range(SOON):
                log.append(event(number))
            print(f"events synced soon      {SOON / (time.perf_counter() - begin):8.0f} /s")
            begin = time.perf_counter()
            wait_for(log, ALONE)
            print(f"events, one caller      {ALONE / (time.perf_counter() - begin):8.0f} /s")
            threads = [threading.Thread(target=wait_for, args=(log, EACH)) for _ in range(CALLERS)]
            begin = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            print(f"events, {CALLERS} callers      {CALLERS * EACH / (time.perf_counter() - begin):8.0f} /s")
        begin = time.perf_counter()
        count = sum(1 for _ in reader.read(reader.on_disk(Path(directory))))
        print(f"{count} events read      {time.perf_counter() - begin:8.2f} s")
        begin = time.perf_counter()
        assert not reader.verify(reader.on_disk(Path(directory))).findings
        print(f"{count} events verified  {time.perf_counter() - begin:8.2f} s")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
