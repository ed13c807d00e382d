"""Keeping this process's memory to itself. Called first, before any secret is there."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from contextlib import suppress

from ioflt.errors import PeerError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4  # asm-generic/mman.h

#: keyd: a thousand connections and some more; a mount: one for each inode that the kernel remembers.
_DESCRIPTORS = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)


def harden() -> None:
    """`forbid_dumps` and `no_new_privileges`."""
    forbid_dumps()
    no_new_privileges()


def no_new_privileges() -> None:
    """No privileges by exec from now on. Raises PeerError when the kernel refuses."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def forbid_dumps() -> None:
    """No core dump, no ptrace or /proc/pid/mem by the same user, no swap if allowed.

    Raises PeerError when the kernel refuses one of the first two.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)
    # KEKs have memory of their own; this keeps their short-lived copies out of swap too. Other users than
    # root may lock too little for a whole Python, and would later lack memory.
    if os.geteuid() == 0:
        _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)


def end_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Get that signal when the thread that started this process ends, and so when its process does.

    Raises PeerError when the kernel refuses.
    """
    _prctl(_PR_SET_PDEATHSIG, number)


def raise_descriptor_limit() -> None:
    """Let this process have `_DESCRIPTORS` descriptors, or as many as it may."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # root may, up to fs.nr_open
        resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, _DESCRIPTORS))
        return
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise PeerError(f"prctl({option}): {os.strerror(ctypes.get_errno())}")
