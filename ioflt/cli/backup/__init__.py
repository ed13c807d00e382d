"""`ioflt backup`: back VMs up, and get them back."""

from __future__ import annotations

from ioflt.cli.lazy import Entry, LazyGroup, Section

_SECTIONS = (
    Section(
        "Backups",
        (
            Entry("run", "ioflt.cli.backup.run", "run", "Back a VM up."),
            Entry("restore", "ioflt.cli.backup.restore", "restore", "Make a VM anew from a backup."),
            Entry("list", "ioflt.cli.backup.list", "list_", "The points in time that a destination has."),
            Entry("show", "ioflt.cli.backup.show", "show", "What a backup holds."),
            Entry("verify", "ioflt.cli.backup.verify", "verify", "Look whether backups are whole."),
        ),
    ),
)

backup = LazyGroup(
    name="backup", sections=_SECTIONS, help="Back VMs up, look at backups, restore them; read disks."
)
