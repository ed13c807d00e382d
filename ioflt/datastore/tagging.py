"""The tags of an open container: the filter that verifies by them, and what of its findings is logged."""

from __future__ import annotations

import logging

from ioflt import syscalls
from ioflt.crypto.secret import Secret
from ioflt.errors import CorruptDataError, IntegrityError
from ioflt.filters.base import Link
from ioflt.filters.tagfile import TagFile
from ioflt.filters.tagged import Tagged, named
from ioflt.filters.written import Within
from ioflt.format.luks2 import tags

#: Findings of one open file that are logged: whoever changes all of a disk does not fill the log, too.
_LOGGED = 20

_log = logging.getLogger(__name__)


class Findings:
    """Of one open file, called `name` in the log."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._logged = 0

    def found(self, runs: tuple[tuple[int, int], ...]) -> None:
        """Sectors, as runs (first, number), that do not verify."""
        if self._logged < _LOGGED:
            self._logged += 1
            last = "; of this file nothing more is logged" if self._logged == _LOGGED else ""
            _log.warning("%s: %s not verify: changed, or put back%s", self.name, named(runs), last)

    def healed(self, runs: tuple[tuple[int, int], ...]) -> None:
        """Sectors that a crash left without the tags of what was written."""
        told = "was interrupted while it was written; got new tags:"
        _log.info("%s: %s %s", self.name, told, ", ".join(f"{first}+{count}" for first, count in runs[:20]))


def link(
    below: Link,
    fd: int,
    tags_fd: int,
    dek: Secret,
    uuid: str,
    findings: Findings,
    written: Within | None = None,
) -> Tagged:
    """The filter over `below`, for the container `uuid` in `fd`. `written` is told what is written to the
    tags. Raises IntegrityError for others' tags.
    """
    keys = tags.keys(dek, uuid)
    file = TagFile(tags_fd, keys, written)
    try:
        file.load_journal()
    except CorruptDataError as error:  # of another container, or none
        raise IntegrityError("tags not of this container", str(error)) from None
    return Tagged(
        below,
        file,
        keys,
        uuid,
        name=findings.name,
        is_written=lambda: syscalls.is_write_locked(fd),
        found=findings.found,
        healed=findings.healed,
    )
