"""What a path is that a user named: in a mount, a datastore, in a datastore. For refusals and advice."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ioflt.errors import CorruptDataError


def is_datastore(path: str | os.PathLike[str]) -> bool:
    """Whether the directory has a datastore's record, valid or not."""
    from ioflt.datastore import records
    from ioflt.format.record.record import parse_datastore

    with suppress(OSError, CorruptDataError):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            parse_datastore(records.read(fd))
        finally:
            os.close(fd)
        return True
    return False


def datastore_above(path: str | os.PathLike[str]) -> str | None:
    """The datastore in which `path` lies, and is not itself."""
    return next((str(above) for above in Path(os.path.realpath(path)).parents if is_datastore(above)), None)


def home_behind_mount(path: str | os.PathLike[str]) -> str | None:
    """As `behind_mount`, for the top of a mount and of its homes, where the names of records are ours."""
    behind = behind_mount(path)
    if behind is not None and (is_datastore(behind) or is_datastore(os.path.dirname(behind))):
        return behind
    return None


def behind_mount(path: str | os.PathLike[str]) -> str | None:
    """What lies on the datastore for a path at or below a mount of ioflt; None for other paths."""
    from ioflt.fuse import mountinfo

    real = Path(os.path.realpath(path))
    for above in (real, *real.parents):
        source = mountinfo.source(str(above))
        if source is not None:
            return os.path.join(source, real.relative_to(above)) if real != above else source
    return None
