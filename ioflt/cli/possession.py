"""Access means possession: what is said to who takes roles away."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from ioflt.cli.render import warn

if TYPE_CHECKING:
    from ioflt.access.objects import Target
    from ioflt.access.principals import Principal
    from ioflt.access.roles import Role
    from ioflt.wire.keyd.access import Object


def warn_of_kept_keys(who: Principal, role: Role, on: Object | Target, *, where: str = "there") -> bool:
    """Say that `who`, who has that role on the object no longer, may have kept data keys, and what ends that.

    Returns whether he may. `where`: how the object is called in the warning.
    """
    from ioflt.access.privileges import VM_CRYPTOGRAPHY

    if not role.privileges & VM_CRYPTOGRAPHY:
        return False
    warn(
        f"access means possession: {who} may have kept data keys of what is encrypted {where};"
        f" new ones end that: {_ending(on)}"
    )
    return True


def _ending(on: Object | Target) -> str:
    """The command that gives new data keys to what the object is."""
    if on.kind == "vm" and on.shown.startswith("/"):
        return f"ioflt vm recrypt --deep {shlex.quote(on.shown)}"
    if on.kind == "datastore" and on.shown.startswith("/"):
        directory = shlex.quote(on.shown)
        return f"ioflt vm recrypt --deep {directory}/VM, for each VM that `ioflt vm list {directory}` names"
    return "ioflt vm recrypt --deep DIR/VM, for each VM"
