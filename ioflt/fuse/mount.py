"""One mount: from a datastore's directory to a served mount point, and orderly back.

`python -m ioflt.fuse` runs it (see `__main__`); the `ioflt mount` command starts that process.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import pyfuse3
import trio

from ioflt import confinement, hygiene, paths
from ioflt.access.principals import Kind, Principal
from ioflt.datastore import atomic, newhome
from ioflt.datastore.volume import Volume
from ioflt.errors import KeyUnavailableError, PeerError
from ioflt.format.record.record import DatastoreRecord
from ioflt.fuse import fastpath, hook, kernel, mountinfo, resuming, visitors
from ioflt.fuse.broker import Broker
from ioflt.fuse.control import Control
from ioflt.fuse.events import Events
from ioflt.fuse.operations import Operations
from ioflt.fuse.served import REQUESTS
from ioflt.keys.client import KeyClient
from ioflt.transport.listener import Listener
from ioflt.wire import failure
from ioflt.wire.readiness import Serves

#: Seconds for which a mount looks for raw copies before it serves: 10,000 homes in memory take 0.6. Where it
#: takes longer it looks on beside its requests.
_COPIES_S = 5.0

#: Bytes of what libfuse says when it cannot mount.
_MAX_REASON = 1024

#: They end a mount.
_ENDING = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger("ioflt.mount")


@dataclass(frozen=True, slots=True)
class Options:
    """What is mounted where, and how."""

    datastore: str
    mountpoint: str
    read_only: bool = False
    allow_other: bool = False
    no_exec: bool = False
    #: For whom, if not for who runs it.
    principal: Principal | None = None
    #: A home that whoever starts the mount keeps everybody else from, for this mount.
    held: str | None = None


def run(options: Options, keys: KeyClient, broker: Broker, ready: Callable[[Serves], None]) -> None:
    """Mount, call `ready`, serve until unmounted or told to end by SIGTERM or SIGINT.

    Raises IofltError when it cannot be mounted; that the datastore's own key cannot be had is no reason.
    """
    hygiene.forbid_dumps()
    hygiene.raise_descriptor_limit()
    where = paths.find().ensure()
    serves = Serves()

    def locked(record: DatastoreRecord, why: KeyUnavailableError) -> None:
        nonlocal serves
        serves = Serves(tuple(failure.shown(str(key)) for key in record.keys), failure.of(why))
        named = " or ".join(map(str, record.keys))
        _log.warning("%s: its own key %s cannot be had: %s", options.datastore, named, why)

    with (
        Volume.open(options.datastore, keys, read_only=options.read_only, locked=locked) as volume,
        Listener(where.control_socket(options.mountpoint)) as listener,
    ):
        if not options.read_only:
            _clean_up(volume)
        if options.held is not None:
            volume.home(options.held).held_for_us = True
        events = Events(volume.claimed.datastore_id, volume.path, keys.note_events)
        events.mounted(options.mountpoint, allow_other=options.allow_other)
        operations = Operations(volume, events)
        # From here on only the loop hears of the two signals: nothing is cut off in the middle. What comes
        # before it listens waits for it; ignored, it would be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        for each in _ENDING:
            signal.signal(each, lambda *_: None)  # also once the loop does not listen any more
        number = _mount(operations, options)
        if not hook.active():
            _log.warning("no SEEK_DATA, SEEK_HOLE and fallocate in this mount: %s", hook.reason)
        try:
            control = Control(operations, options.mountpoint)
            trio.run(_serve, operations, control, listener, where, lambda: ready(serves))
        finally:
            try:
                broker.unmount(number)
            except PeerError as error:  # what is open is closed all the same
                _log.error("%s", error)
            pyfuse3.close(unmount=False)
            operations.close()
    _log.info("unmounted %s (state in %s)", options.mountpoint, where.state)


async def _serve(
    operations: Operations,
    control: Control,
    listener: Listener,
    where: paths.Paths,
    ready: Callable[[], None],
) -> None:
    ending = threading.Event()
    _confine(operations.volume, where)
    async with trio.open_nursery() as nursery:
        await nursery.start(_end_by_signal, operations)  # first: threads have the mask of who starts them
        await nursery.start(hook.serve, operations.lseek, operations.fallocate)
        await nursery.start(operations.filler.run)
        await nursery.start(operations.forgetter.run)
        await nursery.start(operations.closer.run)
        await nursery.start(operations.events.run)
        await nursery.start(control.serve, listener)
        if not operations.volume.read_only:
            looked = trio.Event()
            nursery.start_soon(_look_for_copies, operations, looked)
            with trio.move_on_after(_COPIES_S):
                await looked.wait()
            nursery.start_soon(resuming.run, operations.volume, control, ending)
        ready()
        _log.info("serves %s", operations.volume.path)
        try:
            fastpath.start()
            await pyfuse3.main(max_tasks=REQUESTS)
        finally:  # also when another task fails
            fastpath.stop()
            ending.set()
            with trio.CancelScope(shield=True):
                await operations.sync_all()
                operations.events.unmounted()
                await operations.events.flush()
        nursery.cancel_scope.cancel()


def _confine(volume: Volume, where: paths.Paths) -> None:
    """From here on hostile bytes are read. The loop has its own sockets, and there is no other thread yet."""
    hygiene.no_new_privileges()
    # not: providers, keyd's socket
    own = (where.logs, where.operations, where.homes, where.datastores, where.mounts)
    datastore = (volume.fd,)
    writable, readable = (own, datastore) if volume.read_only else ((*own, *datastore), ())
    for lack in confinement.confine(writable, readable, outwards=False):
        _log.warning("the mount is less confined than it could be: %s", lack)


async def _look_for_copies(operations: Operations, looked: trio.Event) -> None:
    try:
        await trio.to_thread.run_sync(operations.copies.look, abandon_on_cancel=True)
    except OSError as error:  # each is looked at when it is met
        _log.warning("raw copies are not looked for: %s", error)
    looked.set()


async def _end_by_signal(
    operations: Operations, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(*_ENDING) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        task_status.started()
        async for number in signals:
            _log.info("ends by %s", signal.Signals(number).name)
            operations.gate.end()
            await operations.drop_pages()
            await operations.sync_all()
            pyfuse3.terminate()
            return


def _mount(operations: Operations, options: Options) -> int:
    """Returns the kernel's number for the mount.

    Raises PeerError with the reason, which libfuse and fusermount3 write to standard error only.
    """
    stderr = os.dup(2)
    said = os.memfd_create("stderr")
    os.dup2(said, 2)
    try:
        fastpath.use()
        with _visitors(options):
            pyfuse3.init(operations, options.mountpoint, _fuse_options(options, operations.volume))
    except RuntimeError as error:
        reason = os.pread(said, _MAX_REASON, 0).decode(errors="backslashreplace").strip() or str(error)
        raise PeerError(f"cannot mount: {'; '.join(reason.splitlines())}", file=options.mountpoint) from error
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(said)
    found = mountinfo.find(options.mountpoint)
    if found is None:
        raise PeerError("is not in the kernel's list of mounts", file=options.mountpoint)
    kernel.read_ahead(found.device)
    return found.number


def _visitors(options: Options) -> AbstractContextManager[None]:
    """Root's mount for a user is entered by that user alone, unless others are let in, too."""
    principal = options.principal
    if principal is None or principal.kind is not Kind.USER or options.allow_other or os.geteuid() != 0:
        return nullcontext()
    return visitors.admitting(*visitors.ids(principal.name))


def _clean_up(volume: Volume) -> None:
    """Remove what interrupted replacements and imports left. A home in which that fails is no obstacle."""
    newhome.remove_unfinished(volume.fd)
    for name in (".", *volume.homes()):
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=volume.fd)
            try:
                atomic.remove_drafts(fd)
            finally:
                os.close(fd)
        except OSError as error:
            _log.warning("its leftovers are not removed: %s", error)


class _AnyName(str):
    """An option with any byte in it: pyfuse3 encodes options as ASCII, and so refuses most names."""

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return os.fsencode(str(self))


def _fuse_options(options: Options, volume: Volume) -> set[str]:
    name = volume.path.replace("\\", "\\\\").replace(",", "\\,")
    found = {*pyfuse3.default_options, _AnyName(f"fsname={name}"), "subtype=ioflt"}
    if options.read_only:
        found.add("ro")
    if options.allow_other:
        found.add("allow_other")
    if options.no_exec:
        found.add("noexec")
    return found
