"""Writes, syncs and acknowledges until the mount dies: writer.py FILE LOG SEED

One line of LOG, which lies on another file system, per fsync that returned: the length of the file, and the
writes since the line before as offset:length:seed. A line is complete with its end, and so is what it says.
"""

import os
import random
import sys

#: Bytes from which on a file is no longer appended to: it is read whole after each kill.
MOST = 6 << 20


def content(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def main(path: str, log_path: str, seed: int) -> None:
    random_source = random.Random(seed)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = seed << 20
    try:
        fd = os.open(path, os.O_RDWR)
        while True:
            done = []
            for _ in range(random_source.randint(1, 4)):
                number += 1
                length = random_source.choice((1, 100, 511, 4096, 5000, 65536, 200_000))
                size = os.fstat(fd).st_size
                if random_source.random() < 0.3 and size < MOST:
                    offset = size
                else:
                    offset = random_source.randrange(0, 4 << 20)
                # Told before it is done: an interrupted write may leave its bytes, or some of them.
                os.write(log, b"try %d:%d:%d\n" % (offset, length, number))
                os.pwrite(fd, content(number, length), offset)
                done.append(b"%d:%d:%d" % (offset, length, number))
            os.fsync(fd)
            os.write(log, b"ack %d %s\n" % (os.fstat(fd).st_size, b" ".join(done)))
    except OSError:
        sys.exit(0)  # the mount is dead


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
