"""Starting and ending the process of a mount, for the command line."""

from __future__ import annotations

import errno
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from ioflt import paths
from ioflt.access.principals import Principal
from ioflt.errors import BusyError, DeniedError, IofltError, NotFoundError, PeerError, UsageError
from ioflt.fuse import mountinfo, visitors
from ioflt.fuse.mountinfo import mount_id
from ioflt.keys.mounts import MountControl
from ioflt.keys.starter import environment
from ioflt.wire import failure, readiness
from ioflt.wire.readiness import Serves

#: Seconds until a mount that does not become ready is given up: a large datastore is scanned first.
READY_TIMEOUT_S = 120.0

#: Seconds that `umount` waits for the process to end after the mount point is free.
END_TIMEOUT_S = 30.0

#: Seconds that a process that has failed may take to end, before it is told to, and before it is killed.
GRACE_S = 5.0

#: Told that the datastore's own keys, which are named, cannot be had, and why.
Lacking = Callable[[tuple[str, ...], IofltError], None]


def start(
    datastore: Path,
    mountpoint: Path,
    *,
    read_only: bool,
    allow_other: bool,
    no_exec: bool = False,
    principal: Principal | None = None,
    foreground: bool = False,
    lacking: Lacking | None = None,
    module: str = "ioflt.fuse",
) -> int:
    """Mount. Returns when it is served, or with `foreground` when it ended: then the exit code.

    `module`: what is run as the mount's process, by a test bed another one.
    Raises the IofltError for which it could not be mounted.
    """
    if paths.find().joined:  # its process has the keys of all that is opened in it
        raise DeniedError("root makes the mounts of this machine")
    target = os.path.realpath(mountpoint)
    clean_stale(target)
    source = os.path.realpath(datastore)
    if not os.path.isdir(target):
        raise UsageError("the mount point is not a directory", file=target)
    if Path(target).is_relative_to(source) or Path(source).is_relative_to(target):
        # its own process would wait for itself at the mount point
        raise UsageError(
            "a datastore cannot be mounted over itself, inside itself or above itself", file=target
        )
    if is_mounted(target):
        raise BusyError("something is mounted there already", file=target)
    ready, told = os.pipe()
    arguments = [source, target, f"--ready-fd={told}"]
    arguments += ["--read-only"] if read_only else []
    arguments += ["--allow-other"] if allow_other else []
    arguments += ["--no-exec"] if no_exec else []
    arguments += [f"--as={principal}"] if principal is not None else []
    arguments += ["--log-to-stderr"] if foreground else []
    quiet = None if foreground else subprocess.DEVNULL
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            pass_fds=(told,),
            stdin=subprocess.DEVNULL,
            stdout=quiet,
            stderr=quiet,
            start_new_session=not foreground,
            cwd="/",
            env=environment(),
        )
    finally:
        os.close(told)
    try:
        line = _read_line(ready)
    finally:
        os.close(ready)
    answer = _understood(line)
    if isinstance(answer, IofltError):
        _end(process, at_once=line is None)
        clean_stale(target)
        raise answer
    if answer.why is not None and lacking is not None:
        lacking(answer.lacking, failure.rebuild(answer.why))
    if not foreground:
        process.returncode = 0  # it lives on; nobody waits for it
        return 0
    while True:
        with suppress(KeyboardInterrupt):  # the process has it, too, and ends by it
            return process.wait()


def stop(mountpoint: Path) -> None:
    """Unmount, and wait until the process has ended. Raises NotFoundError, BusyError, PeerError."""
    target = os.path.realpath(mountpoint)
    if clean_stale(target):
        return
    mounted = mountinfo.find(target)
    if mounted is None:
        raise NotFoundError("no ioflt mount here", file=target)
    pid = _process_of(target)
    english = {**os.environ, "LC_ALL": "C"}
    result = subprocess.run(
        umount_command(target),
        capture_output=True,
        text=True,
        errors="backslashreplace",
        check=False,
        env=english,
    )
    if result.returncode != 0:
        text = result.stderr.strip()
        if "busy" in text:
            raise BusyError("in use: a file is open or a shell stands in it", file=target)
        raise PeerError(f"cannot unmount: {text}", file=target)
    if pid is not None:
        _wait_for_end(pid, mounted.device, target)


def clean_stale(target: str) -> bool:
    """Unmount what a killed mount left (ENOTCONN). Returns whether there was something."""
    if _errno_of(target) != errno.ENOTCONN:
        return False
    subprocess.run(umount_command(target, lazily=True), capture_output=True, check=False)
    return True


def _errno_of(target: str) -> int:
    """What a mount answers; whom it does not admit the kernel answers in its place, also if it is dead."""
    found = mountinfo.find(os.path.realpath(target))
    if found is not None and os.geteuid() == 0 and found.uid != 0:
        return visitors.errno_as(found.uid, found.gid, lambda: os.statvfs(target))
    try:
        os.statvfs(target)  # always asks the mount; stat(2) may answer from the cache of a dead one
    except OSError as error:
        return error.errno or 0
    return 0


def is_mounted(target: str) -> bool:
    """Whether an ioflt mount is there."""
    return mount_id(os.path.realpath(target)) is not None


def umount_command(target: str, *, lazily: bool = False) -> list[str]:
    """The program that unmounts, for this user."""
    if os.geteuid() == 0:
        return ["umount", *(["-l"] if lazily else []), target]
    return ["fusermount3", "-u", *(["-z"] if lazily else []), target]


def _process_of(target: str) -> int | None:
    """A pidfd of the mount's process, by its control socket."""
    try:
        with MountControl(paths.find().control_socket(target)) as control:
            return os.pidfd_open(control.status.pid)
    except (PeerError, OSError):
        return None


def _wait_for_end(pidfd: int, device: str, target: str) -> None:
    try:
        if select.select([pidfd], [], [], END_TIMEOUT_S)[0]:
            return
    finally:
        os.close(pidfd)
    holder = mountinfo.holder(device)
    if holder is None:
        raise PeerError("the mount's process does not end; its log says why")
    raise PeerError(
        f"the mount's process does not end: the mount namespace of process {holder} still has the mount",
        file=target,
    )


def _read_line(ready: int) -> bytes | None:
    """What the process says; None when it neither becomes ready nor ends in time."""
    answer = b""
    end = time.monotonic() + READY_TIMEOUT_S
    while not answer.endswith(readiness.END):
        if not select.select([ready], [], [], max(0.0, end - time.monotonic()))[0]:
            return None
        chunk = os.read(ready, 8192)
        if not chunk:
            break
        answer += chunk
    return answer


def _end(process: subprocess.Popen[bytes], *, at_once: bool) -> None:
    """See that the process ends: it ends itself, unless it hangs."""
    if at_once:
        process.terminate()
    for harder in (process.terminate, process.kill):
        try:
            process.wait(GRACE_S)
            return
        except subprocess.TimeoutExpired:
            harder()
    process.wait()


def _understood(line: bytes | None) -> Serves | IofltError:
    if line is None:
        return PeerError(f"the mount did not become ready within {READY_TIMEOUT_S:g} s; see mount.log")
    try:
        answer = readiness.read(line)
    except msgspec.DecodeError:
        return PeerError("the mount's process ended without a word; see mount.log")
    return answer if isinstance(answer, Serves) else failure.rebuild(answer)
