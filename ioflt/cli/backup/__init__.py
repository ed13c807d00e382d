"""`ioflt backup`: back VMs up, and get them back."""

from __future__ import annotations

from ioflt.cli.lazy import Entry, LazyGroup, Section

_SECTIONS = (
    Section(
        "Backups",
        (Entry("list", "ioflt.cli.backup.list", "list_", "The points in time that a destination has."),),
    ),
)

backup = LazyGroup(
    name="backup", sections=_SECTIONS, help="Back VMs up, look at backups, restore them; read disks."
)
