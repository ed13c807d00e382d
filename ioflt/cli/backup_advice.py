"""Advice for destinations of backups, what is not in them, and test beds. See `advice`."""

from __future__ import annotations

import errno
import os
import shlex

from ioflt import errors
from ioflt.cli.key_advice import Row


def _no_backups(error: errors.IofltError) -> str:
    from ioflt.cli import places

    behind = places.behind_mount(error.file or "")
    if behind is not None:
        return f"this is a mount; name what it shows: {shlex.quote(behind)}"
    if error.file and os.path.lexists(error.file):
        return "a new destination is an empty directory, or one that is not there yet"
    return _made(error)


def _made(error: errors.IofltError) -> str:
    return f"make some: ioflt backup run DIR/VM {shlex.quote(error.file or 'DEST')}"


def _points(error: errors.IofltError) -> str:
    """`error.file`: a VM in a destination."""
    above = os.path.dirname(error.file or "") or "DEST"
    return f"see what is there: ioflt backup list {shlex.quote(above)}"


BACKUPS: tuple[Row, ...] = (
    (errors.NotFoundError, "^no test bed", lambda _: "make one: ioflt testbed up; of another: --directory"),
    (
        errors.ExistsError,
        "^is not empty$",
        lambda error: (
            "name another directory: --directory; if it is a test bed:"
            f" ioflt testbed down --directory {shlex.quote(error.file or 'DIR')}"
        ),
    ),
    (
        errors.StorageError,
        f"^the destination failed.*{os.strerror(errno.EROFS)}",
        lambda _: "mount its file system for writing, or another DEST",
    ),
    (errors.NotFoundError, "^no backups here", _no_backups),
    (errors.NotFoundError, "^no backups in it", _made),
    (errors.NotFoundError, "^no backups? ", _points),
    (
        errors.UsageError,
        "^neither a point nor a time",
        lambda _: "say a point, a day, or a time in UTC: 20261127T061200Z, 2026-11-27, 2026-11-27T06:12",
    ),
    (
        errors.UsageError,
        "^has backups of .* VMs",
        lambda error: f"--vm NAME; see them: ioflt backup list {shlex.quote(error.file or 'DEST')}",
    ),
    (
        errors.UsageError,
        "^is the VM's own datastore|^holds something else than backups",
        lambda _: "keep backups apart from VMs: another DEST",
    ),
    (
        errors.BusyError,
        "^another backup command works on it",
        lambda _: "let that command end, then try again",
    ),
    (
        errors.ExistsError,
        "^another backup has this name there",
        lambda _: "nothing is overwritten; name another directory",
    ),
)
