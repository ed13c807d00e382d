"""Does anything to a file, tells what, until the mount dies: shaker.py FILE LOG SEED

A line of LOG, which lies on another file system, before each operation: `do KIND OFFSET LENGTH SEED`; after
each fsync that returned: `ack`. A line is complete with its end. `replay` has what each does to contents.
"""

import os
import random
import sys

from ioflt import syscalls

#: Bytes within which all happens: 12 areas of tags.
SPACE = 48 << 20

_WRITES = (1, 100, 4096, 5000, 65_536, 300_000, 1 << 20, 1 << 20, 1 << 20)
_RANGES = (1, 4096, 10_000, 1 << 20, 5 << 20, 13 << 20)


def content(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def replay(data: bytearray, kind: str, offset: int, length: int, seed: int) -> None:
    """What the operation makes of `data`."""
    if kind == "cut":
        del data[offset:]
    if kind in ("cut", "write") and len(data) < offset:
        data.extend(bytes(offset - len(data)))
    if kind == "write":
        data[offset : offset + length] = content(seed, length)
    if kind in ("punch", "zero"):
        end = min(offset + length, len(data))
        data[offset:end] = bytes(max(0, end - offset))


def act(fd: int, kind: str, offset: int, length: int, seed: int) -> None:
    if kind == "cut":
        os.ftruncate(fd, offset)
    elif kind == "write":
        os.pwrite(fd, content(seed, length), offset)
    else:
        mode = syscalls.FALLOC_FL_PUNCH_HOLE if kind == "punch" else syscalls.FALLOC_FL_ZERO_RANGE
        syscalls.fallocate(fd, mode | syscalls.FALLOC_FL_KEEP_SIZE, offset, length)


def main(path: str, log_path: str, seed: int) -> None:
    dice = random.Random(seed)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = seed << 20
    try:
        fd = os.open(path, os.O_RDWR)
        while True:
            for _ in range(dice.randint(1, 40)):
                number += 1
                kind = dice.choices(("write", "punch", "zero", "cut"), (12, 2, 2, 1))[0]
                length = dice.choice(_WRITES if kind == "write" else _RANGES)
                offset = dice.randrange(SPACE - length)
                if dice.random() < 0.4:
                    offset -= offset % 4096
                os.write(log, b"do %s %d %d %d\n" % (kind.encode(), offset, length, number))
                act(fd, kind, offset, length, number)
            os.fsync(fd)
            os.write(log, b"ack\n")
            if dice.random() < 0.2:
                os.close(fd)
                fd = os.open(path, os.O_RDWR)
    except OSError:
        sys.exit(0)  # the mount is dead


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
