"""What this process can still reach once it reads hostile input: files by Landlock, the rest by seccomp.

Import everything first, then confine: a module that is loaded afterwards is a file that may not be opened.
Call from the only thread: Landlock binds the caller and the threads that it starts.

Both are best effort: where the kernel or libseccomp lacks one, `confine` says so and does the other.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

# Landlock: linux/landlock.h. The numbers are the same on every architecture.
_SYS_CREATE_RULESET, _SYS_ADD_RULE, _SYS_RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
#: All rights over files by version: the bits up to REFER (13), with 3 up to TRUNCATE (14). Version 1 lets
#: nobody rename between directories. Calls to devices (15) are left alone: /dev/fuse is open already.
_RIGHTS = {2: (1 << 14) - 1, 3: (1 << 15) - 1}
_EXECUTE = 1
_OF_FILES = 1 | 1 << 1 | 1 << 2 | 1 << 14  # EXECUTE, WRITE_FILE, READ_FILE, TRUNCATE
_READ = 1 << 2 | 1 << 3  # READ_FILE, READ_DIR
_MAKE_DEVICE = 1 << 6 | 1 << 11  # MAKE_CHAR, MAKE_BLOCK: a raw disk under a name of one's own
#: From these versions on also: binding (1) and connecting (2) TCP ports; abstract unix sockets, and signals.
_WITH_PORTS, _WITH_SCOPES = 4, 6
_BIND, _ALL_PORTS, _ALL_SCOPES = 1, 3, 3

# libseccomp: seccomp.h
_ALLOW = 0x7FFF0000
_ERRNO_EPERM = 0x00050000 | errno.EPERM

# System calls by which a process reaches what it was not handed. A list of what is allowed would be stronger,
# but Python, glibc and OpenSSL of each distribution need another one, and what it lacks shows in the middle
# of somebody's write.

#: To sockets, programs, and processes that get signals.
OUTWARDS = (
    *("socket", "socketpair", "bind", "connect", "execve", "execveat", "uselib"),
    *("pidfd_open", "kill", "tkill", "pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo"),
)

#: To programs alone.
_EXEC = ("execve", "execveat")

#: Into other processes, mounts and namespaces, the kernel; to be reached from elsewhere.
DEEPER = (
    "listen",
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),  # a second way to most system calls
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp"),
    *("mount", "umount2", "pivot_root", "chroot", "fsopen", "fsconfig", "fsmount", "fspick"),
    *("move_mount", "open_tree", "mount_setattr", "unshare", "setns"),
    *("open_by_handle_at", "fanotify_init", "quotactl", "quotactl_fd", "acct", "swapon", "swapoff"),
    *("bpf", "perf_event_open", "userfaultfd", "init_module", "finit_module", "delete_module"),
    *("kexec_load", "kexec_file_load", "add_key", "request_key", "keyctl", "reboot", "syslog"),
    *("iopl", "ioperm", "modify_ldt", "personality", "vhangup", "lookup_dcookie"),
    *("settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname"),
)


class _NotConfined(Exception):
    """The text says why."""


def confine(
    writable: Iterable[Path | int],
    readable: Iterable[Path | int] | None,
    *,
    outwards: bool,
    programs: Sequence[Path] = (),
) -> list[str]:
    """From now on files are written, made and renamed only below these directories (paths or descriptors),
    and read only below them and those of `readable` (None: anywhere). Open descriptors stay good. No TCP
    port is served any more; no abstract unix socket and no process is reached but those that are started
    from here, where the kernel can tell. `outwards`: for who connects to servers; he makes no device.
    `programs`: for who becomes another program next: what is below these may be read and run.

    System calls in `DEEPER` fail with EPERM; unless `outwards`, those in `OUTWARDS` too. Needs
    `no_new_privs`. Returns what of it cannot be done here, and why.
    """
    lacking = []
    seccomp = None
    try:
        seccomp = _load_seccomp()  # a file like any other, so before Landlock
    except OSError as error:
        lacking.append(f"no seccomp filter: {error}")
    try:
        _restrict_files(writable, readable, programs, outwards=outwards)
    except _NotConfined as error:
        lacking.append(f"no Landlock: {error}")
    try:
        if seccomp is not None:
            doors = DEEPER if outwards else OUTWARDS + DEEPER
            _shut_doors(seccomp, [door for door in doors if not programs or door not in _EXEC])
    except _NotConfined as error:
        lacking.append(f"no seccomp filter: {error}")
    return lacking


def _restrict_files(
    writable: Iterable[Path | int],
    readable: Iterable[Path | int] | None,
    programs: Iterable[Path],
    *,
    outwards: bool,
) -> None:
    version = int(_libc.syscall(_SYS_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION))
    if version < min(_RIGHTS):
        raise _NotConfined("this kernel has none, or too old a one")
    rights = _RIGHTS[min(version, max(_RIGHTS))]
    if readable is None:
        rights &= ~(_READ | _EXECUTE)
    # A kernel takes fields that it does not know, if they are zero.
    ports = (_BIND if outwards else _ALL_PORTS) if version >= _WITH_PORTS else 0
    scopes = _ALL_SCOPES if version >= _WITH_SCOPES else 0
    attributes = struct.pack("=QQQ", rights, ports, scopes)
    ruleset = _landlock(_SYS_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for place in writable:
            _allow(ruleset, place, rights & ~_MAKE_DEVICE if outwards else rights)
        for place in readable or ():
            _allow(ruleset, place, _READ & rights)
        for place in programs:
            _allow(ruleset, place, (_READ | _EXECUTE) & rights)
        _landlock(_SYS_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, place: Path | int, rights: int) -> None:
    fd = place if isinstance(place, int) else os.open(place, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _OF_FILES
        _landlock(_SYS_ADD_RULE, ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
    finally:
        if fd is not place:
            os.close(fd)


def _landlock(number: int, *arguments: int | bytes) -> int:
    words = (ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments)
    result = int(_libc.syscall(number, *words))
    if result < 0:
        raise _NotConfined(os.strerror(ctypes.get_errno()))
    return result


def _load_seccomp() -> ctypes.CDLL:
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    seccomp.seccomp_init.argtypes = (ctypes.c_uint32,)
    seccomp.seccomp_rule_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint)
    seccomp.seccomp_load.argtypes = seccomp.seccomp_release.argtypes = (ctypes.c_void_p,)
    return seccomp


def _shut_doors(seccomp: ctypes.CDLL, doors: Sequence[str]) -> None:
    context = seccomp.seccomp_init(_ALLOW)
    if context is None:
        raise _NotConfined("libseccomp makes no filter")
    try:
        for name in doors:
            number = seccomp.seccomp_syscall_resolve_name(name.encode())
            if number < 0:  # not on this machine, or younger than this libseccomp
                continue
            if seccomp.seccomp_rule_add(context, _ERRNO_EPERM, number, 0) != 0:
                raise _NotConfined(f"libseccomp takes no rule for {name}")
        failure = seccomp.seccomp_load(context)
        if failure != 0:
            raise _NotConfined(os.strerror(-failure))
    finally:
        seccomp.seccomp_release(context)
