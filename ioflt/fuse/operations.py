"""FUSE requests, translated. How a file is stored and what is durable when is the matter of `datastore`.

`names` has the handlers for names, `files` those for open files, `served` what both stand on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ioflt.datastore.home import Home
from ioflt.datastore.vmx import VmxFile
from ioflt.fuse import kernel
from ioflt.fuse.files import Files
from ioflt.fuse.names import Names
from ioflt.fuse.nodes import Node
from ioflt.fuse.ranges import END

_log = logging.getLogger("ioflt.mount")


class Operations(Names, Files):
    """All handlers of one mount, and what `mount` and `control` do to it as a whole."""

    async def sync_all(self, home: Home | None = None) -> list[str]:
        """Write back every open file, or those of that home; the names of those that could not be."""
        failed = []
        for node in self.nodes.all():
            file = node.file
            if file is None or node.writers == 0 or home not in (None, node.home):
                continue
            try:
                async with self._steady(node), node.ranges.hold(0, END, exclusive=True):
                    if node.file is not file:  # closed meanwhile
                        continue
                    thread = self.opener.thread_for(file)
                    await thread(lambda file=file: file.sync(data_only=False))
                    if not file.closable:
                        await thread(file.flush)
                    self._rebind(node)
            except Exception as error:
                _log.error("%s could not be written back: %s", node.shown, error)
                failed.append(node.shown)
        return failed

    async def reseal(self, node: Node, change: Callable[[bytes], bytes | None]) -> None:
        """Change the sealed text of a VMX that is open for writing, whatever of it is not committed yet."""

        async def action(node: Node) -> None:
            file = node.file
            if isinstance(file, VmxFile):
                async with node.ranges.hold(0, END, exclusive=True):
                    await self._ask(file.reseal, change)

        await self._settle(node, action)

    async def reopen_fast(self) -> None:
        """What is under way in C ends; what comes is read and written as is right from now on."""
        for node in self.nodes.all():
            async with node.fast:
                pass

    def resume_filling(self) -> None:
        """After an unlock: the filler ended when it was refused."""
        for node in self.nodes.all():
            self._start_filler(node)

    async def drop_pages(self, only: Node | None = None) -> None:
        """Have the kernel write back and drop what it caches; from a thread, as it waits for our writes."""
        for node in self.nodes.all() if only is None else [only]:
            if node.is_regular:
                await self._in_thread(kernel.drop_pages, node.number)

    def close(self) -> None:
        """After the loop: drop keys and descriptors."""
        for node in self.nodes.all():
            if node.file is not None:
                try:
                    node.file.close()
                except OSError as error:
                    _log.error("closing %s: %s", node.shown, error)
                node.file = None
            node.close()
