"""What was interrupted goes on beside a mount; and again, once keys are back that it waits for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Set
from typing import Final

import trio

from ioflt.datastore import recrypt, resume
from ioflt.datastore.volume import Volume
from ioflt.datastore.wrapping import Change
from ioflt.errors import BusyError, IofltError
from ioflt.fuse.control import Control
from ioflt.keys.client import KeyService
from ioflt.types import KeyRef

#: Seconds after which a key that could not be had is asked for again, as long as something waits for it.
RETRY_S: Final = 5.0

_log = logging.getLogger("ioflt.mount")


async def run(volume: Volume, control: Control, ending: threading.Event) -> None:
    """Interrupted encryptions and deep recrypts go on beside the mount; their homes answer EBUSY until then.
    So do shallow recrypts, during which homes can be used.

    A datastore whose record could not be verified is, when its key is back. When the mount ends they stop
    where they are, to be resumed again.
    """
    while True:
        verified = await trio.to_thread.run_sync(_verify, volume)
        await _go_on(volume, control, ending)
        missing = await _missing(volume.keys, await trio.to_thread.run_sync(resume.wanted, volume))
        if verified and not missing:
            return
        while True:  # providers send no event
            await trio.sleep(RETRY_S)
            if await trio.to_thread.run_sync(_verify, volume) != verified:
                break
            if await _missing(volume.keys, missing) != missing:
                break


async def _go_on(volume: Volume, control: Control, ending: threading.Event) -> None:
    def progress(_bytes: int) -> None:
        if ending.is_set():
            raise BusyError("the mount ends")

    def rewrap(path: str, change: Change) -> None:
        trio.from_thread.run(control.rewrap, path, change)

    try:
        resumed = await trio.to_thread.run_sync(
            lambda: resume.interrupted(volume, progress=progress, here=rewrap)
        )
    except Exception:  # the mount serves on; what is left is resumed at the next
        _log.exception("what was interrupted could not be resumed")
        return
    for name, what in resumed:
        _log.info("%s: its interrupted %s is complete", name or volume.path, what)


def _verify(volume: Volume) -> bool:
    """Whether the datastore's record is verified, now or before."""
    if not volume.root.is_verified:
        volume.root.unverified()
    return volume.root.is_verified


async def _missing(keys: KeyService, wanted: Set[KeyRef]) -> Set[KeyRef]:
    """Those that cannot be had now. A provider that hangs does not keep the mount from ending."""

    def ask() -> Set[KeyRef]:
        missing = set()
        for key in wanted:
            try:
                recrypt.existing(keys, key)
            except IofltError:
                missing.add(key)
        return missing

    return await trio.to_thread.run_sync(ask, abandon_on_cancel=True)
