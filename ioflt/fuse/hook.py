"""SEEK_DATA, SEEK_HOLE and fallocate, which pyfuse3 3.5 has no handlers for.

`_hook_src.c` says how they get into the session. Its callbacks run in the middle of pyfuse3's loop, which
awaits nothing for them: a request becomes a task of `serve`, and the task answers it.

    install()      before anything imports pyfuse3
    pyfuse3.init()
    serve()        beside pyfuse3.main(), in the same thread; over before pyfuse3.close()
"""

from __future__ import annotations

import errno
import importlib.util
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from ioflt.fuse import _hook

Lseek = Callable[[int, int, int], Awaitable[int]]
Fallocate = Callable[[int, int, int, int], Awaitable[None]]

#: Why `install` returned False; None when it did not.
reason: str | None = None

_log = logging.getLogger(__name__)
_lib: _hook._Lib | None = None
_service: _Service | None = None


def install() -> bool:
    """Load the extension, so that the next `pyfuse3.init` gets the two operations. May be called again.

    False, with `reason` set, when it was not built, or came too late, or does not fit the pyfuse3 that is
    there: the mount works without, and the kernel answers EOPNOTSUPP for fallocate and knows no holes.
    """
    global _lib, reason
    if _lib is None:
        reason = None
        try:
            _lib = _load()
        except ImportError as error:
            reason = str(error)
    return _lib is not None


def active() -> bool:
    """Whether a session was made with our operations: after `pyfuse3.init`, the proof that it worked."""
    return _lib is not None and _lib.ioflt_sessions() > 0


def extension() -> _hook.Extension | None:
    """The C files, once `install` has loaded them."""
    if _lib is None:
        return None
    from ioflt.fuse import _hook

    return _hook


async def serve(
    lseek: Lseek, fallocate: Fallocate, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer requests until cancelled, each in a task of its own; without `install`, just wait.

    `lseek(fh, offset, whence)` returns the new offset, for SEEK_DATA and SEEK_HOLE only; `fallocate(fh, mode,
    offset, length)` returns nothing. A `FUSEError` or `OSError` gives its errno, any other exception EIO and
    a traceback in the log. Requests that a cancellation leaves unanswered get ENODEV.
    """
    global _service
    if _lib is None:
        task_status.started()
        await trio.sleep_forever()
    async with trio.open_nursery() as nursery:
        _service = _Service(_lib, nursery, lseek, fallocate)
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            _service = None


def _load() -> _hook._Lib:
    """Raises ImportError with the reason."""
    if "pyfuse3" in sys.modules:
        raise ImportError("pyfuse3 was imported before the extension")
    pyfuse3 = importlib.util.find_spec("pyfuse3")
    if pyfuse3 is None or pyfuse3.origin is None:
        raise ImportError("pyfuse3 is not installed")
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_GLOBAL)
    try:
        from ioflt.fuse import _hook
    except ImportError as error:
        raise ImportError(f"the extension is not built: {error}") from error
    finally:
        sys.setdlopenflags(flags)
    missing = _hook.lib.ioflt_attach(os.fsencode(pyfuse3.origin))
    if missing != _hook.ffi.NULL:
        raise ImportError(f"cannot hook pyfuse3: {_hook.ffi.string(missing).decode()}")

    @_hook.ffi.def_extern("ioflt_on_lseek")
    def on_lseek(request: object, handle: int, offset: int, whence: int) -> None:
        if _service is None:
            _hook.lib.ioflt_reply_error(request, errno.ENODEV)
        else:
            _service.start(request, _service.lseek, handle, offset, whence)

    @_hook.ffi.def_extern("ioflt_on_fallocate")
    def on_fallocate(request: object, handle: int, mode: int, offset: int, length: int) -> None:
        if _service is None:
            _hook.lib.ioflt_reply_error(request, errno.ENODEV)
        else:
            _service.start(request, _service.fallocate, handle, mode, offset, length)

    return _hook.lib


class _Service:
    """A running `serve`."""

    def __init__(self, lib: _hook._Lib, nursery: trio.Nursery, lseek: Lseek, fallocate: Fallocate) -> None:
        self.lseek = lseek
        self.fallocate = fallocate
        self._lib = lib
        self._nursery = nursery

    def start(self, request: object, handler: Callable[..., Awaitable[int | None]], *arguments: int) -> None:
        self._nursery.start_soon(self._answer, request, handler, *arguments)

    async def _answer(
        self, request: object, handler: Callable[..., Awaitable[int | None]], *arguments: int
    ) -> None:
        """Reply, whatever happens: the caller of a request without reply hangs for ever."""
        from pyfuse3 import FUSEError

        offset: int | None = None
        code = errno.ENODEV
        try:
            offset = await handler(*arguments)
            code = 0
        except (FUSEError, OSError) as error:
            code = error.errno or errno.EIO
        except Exception:  # a bug: EIO to the caller, the mount goes on
            _log.exception("the handler of a request failed")
            code = errno.EIO
        finally:
            if code or offset is None:
                taken = self._lib.ioflt_reply_error(request, code)
            else:
                taken = self._lib.ioflt_reply_lseek(request, offset)
            if taken not in (0, -errno.ENOENT):  # ENOENT: the caller was killed meanwhile
                _log.error("the kernel did not take a reply: %s", os.strerror(-taken))
