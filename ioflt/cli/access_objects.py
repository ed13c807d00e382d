"""Whom roles are given, and on what, as one names it: everything, a folder, a datastore, a VM."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ioflt.errors import NotFoundError, ReadOnlyError

if TYPE_CHECKING:
    from ioflt.access.principals import Principal
    from ioflt.wire.keyd.access import Object

_BY_ID = re.compile("(vm|datastore):([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


def named(text: str) -> Object:
    """The object of that name. A datastore or VM is opened, and what its record says is verified.

    Raises NotFoundError, ReadOnlyError for a VM without a valid record, KeyUnavailableError.
    """
    from ioflt.wire.keyd.access import Object

    if text == "everything":
        return Object("everything", "", text)
    kind, colon, name = text.partition(":")
    if colon and kind == "folder":
        return Object("folder", name, text)
    found = _BY_ID.fullmatch(text)
    if found is not None:
        return Object("vm" if found[1] == "vm" else "datastore", found[2], text)
    return _stored(Path(text))


def is_known(principal: Principal) -> bool:
    """Whether this machine has such a user or group, or keyd such a service (which it has looked up)."""
    import grp
    import pwd

    from ioflt.access.principals import Kind

    by_name = {Kind.USER: pwd.getpwnam, Kind.GROUP: grp.getgrnam}
    if principal.kind is Kind.SERVICE:
        return True
    try:
        by_name[principal.kind](principal.name)
    except KeyError:
        return principal.name.isdecimal()
    return True


def _stored(path: Path) -> Object:
    from ioflt.cli import places
    from ioflt.cli.session import open_volume
    from ioflt.wire.keyd.access import Object

    real = Path(os.path.realpath(path))
    if places.is_datastore(real):
        with open_volume(real, read_only=True) as volume:
            return Object("datastore", volume.record.datastore_id, str(real))
    if not places.is_datastore(real.parent):
        raise NotFoundError("neither a datastore nor a VM in one, nor everything or folder:NAME", file=path)
    with open_volume(real.parent, read_only=True) as volume:
        standing = volume.home(real.name).standing()
        if standing.record is None:
            raise ReadOnlyError(standing.problem or "has no valid record", file=real)
        return Object("vm", standing.record.home_id, str(real), volume.record.datastore_id)
