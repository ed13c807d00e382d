"""What a mount tells the kernel unasked. Call it from worker threads: the kernel may wait for our writes."""

from __future__ import annotations

import os
from contextlib import suppress

import pyfuse3

#: KiB that the kernel reads ahead for who reads in order, by default 128: two of the largest requests, of
#: which one is decrypted while the other is. 1,024: 964 MiB/s, 2,048: 1,061, 4,096: 1,140.
#: A fault of mmap(2) may read so much around it.
READ_AHEAD_KIB = 2048


def read_ahead(device: str) -> None:
    """Have the kernel read ahead more in the mount that is `device` (major:minor). That is root's to say.

    Before the session's first request: then the kernel takes the lesser of this and what the session wants.
    """
    with suppress(OSError):  # not root, or /sys is not to be written: it is slower
        fd = os.open(f"/sys/class/bdi/{device}/read_ahead_kb", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(READ_AHEAD_KIB).encode())
        finally:
            os.close(fd)


def drop_pages(number: int) -> None:
    """Write back and drop what is cached of an inode, attributes included."""
    with suppress(FileNotFoundError):  # the kernel dropped the inode itself already
        pyfuse3.invalidate_inode(pyfuse3.InodeT(number), attr_only=False)


def forget_attributes(number: int) -> None:
    """Ask again for the attributes of an inode before they are used."""
    with suppress(FileNotFoundError):
        pyfuse3.invalidate_inode(pyfuse3.InodeT(number), attr_only=True)


def forget_name(directory: int, name: str) -> None:
    """Let go of a name, and of its inode if nobody uses it."""
    with suppress(FileNotFoundError, NotADirectoryError):
        pyfuse3.invalidate_entry(pyfuse3.InodeT(directory), pyfuse3.FileNameT(os.fsencode(name)))
