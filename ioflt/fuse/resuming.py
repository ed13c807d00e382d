"""What was interrupted goes on beside a mount; and again, once keys are back that it waits for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Set
from typing import Final, TypeVar

import trio

from ioflt.datastore import resume
from ioflt.datastore.volume import Volume
from ioflt.datastore.wrapping import Change
from ioflt.errors import BusyError, IofltError
from ioflt.fuse.control import Control
from ioflt.keys.service import KeyService
from ioflt.types import KeyRef

#: Seconds after which a key that could not be had is asked for again, as long as something waits for it.
RETRY_S: Final = 5.0

_T = TypeVar("_T")

_log = logging.getLogger("ioflt.mount")


async def run(volume: Volume, control: Control, ending: threading.Event) -> None:
    """Interrupted encryptions and deep recrypts go on beside the mount; their homes answer EBUSY until then.
    So do shallow recrypts, during which homes can be used.

    A datastore whose record could not be verified is, when its key is back. When the mount ends they stop
    where they are, to be resumed again. An error is no end of the mount: it is tried again.
    """
    told = ""
    while True:
        try:
            verified = await _verify(volume)
            await _go_on(volume, control, ending)
            missing = await _missing(volume.keys, await _in_thread(resume.wanted, volume))
            if verified and not missing:
                return
            while True:  # providers send no event
                await trio.sleep(RETRY_S)
                if await _verify(volume) != verified or await _missing(volume.keys, missing) != missing:
                    break
        except Exception as error:
            if str(error) != told:
                told = str(error)
                _log.exception("what was interrupted cannot be resumed now")
            await trio.sleep(RETRY_S)


async def _go_on(volume: Volume, control: Control, ending: threading.Event) -> None:
    def progress(_bytes: int) -> None:
        if ending.is_set():
            raise BusyError("the mount ends")

    def rewrap(path: str, change: Change) -> None:
        trio.from_thread.run(control.rewrap, path, change)

    resumed = await trio.to_thread.run_sync(
        lambda: resume.interrupted(volume, progress=progress, here=rewrap)
    )
    for name, what in resumed:
        _log.info("%s: its interrupted %s is complete", name or volume.path, what)


async def _verify(volume: Volume) -> bool:
    """Whether the datastore's record is verified, now or before."""
    if not volume.root.is_verified:
        await _in_thread(volume.root.unverified)
    return volume.root.is_verified


async def _missing(keys: KeyService, wanted: Set[KeyRef]) -> Set[KeyRef]:
    """Those that cannot be had now. They are not used for anything new: records only claim them."""

    def ask() -> Set[KeyRef]:
        known = zip(wanted, keys.key_states(list(wanted), ask=False), strict=True)
        asked = [key for key, state in known if not state.cached]
        try:
            states = keys.key_states(asked, ask=True)
        except IofltError:
            return frozenset(asked)
        return {key for key, state in zip(asked, states, strict=True) if state.missing and not state.at_hand}

    return await _in_thread(ask)


async def _in_thread(call: Callable[..., _T], *args: object) -> _T:
    """What changes nothing. A provider that hangs does not keep the mount from ending."""
    return await trio.to_thread.run_sync(call, *args, abandon_on_cancel=True)
