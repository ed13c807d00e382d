"""Who may enter a mount without allow_other: processes with just the ids by which it was mounted.

FUSE compares their real, effective and saved ids (fuse_allow_current_process): not even root gets in then.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ioflt.errors import NotFoundError


def ids(user: str) -> tuple[int, int]:
    """Uid and primary gid of a user of this machine. Raises NotFoundError."""
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise NotFoundError(f"no user {user} on this machine") from None
    return found.pw_uid, found.pw_gid


@contextmanager
def admitting(uid: int, gid: int) -> Iterator[None]:
    """What root mounts in the block is entered by that user: libfuse gives the kernel the real ids."""
    before = os.getuid(), os.getgid()
    os.setresgid(gid, -1, -1)
    os.setresuid(uid, -1, -1)
    try:
        yield
    finally:
        os.setresuid(before[0], -1, -1)
        os.setresgid(before[1], -1, -1)


def errno_as(uid: int, gid: int, call: Callable[[], object]) -> int:
    """The errno with which that call fails for this user, asked in a process of its own; 0 if it does not."""
    pid = os.fork()
    if pid == 0:
        answer = 255
        try:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            call()
            answer = 0
        except OSError as error:
            answer = error.errno or 255
        finally:
            os._exit(answer)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
