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
            Entry("mount", "ioflt.cli.backup.mount", "mount", "Show backups as QEMU reads them."),
            Entry("prune", "ioflt.cli.backup.prune", "prune", "Remove points; each that stays is whole."),
            Entry("replicate", "ioflt.cli.backup.replicate", "replicate", "Copy points elsewhere."),
            Entry("verify", "ioflt.cli.backup.verify", "verify", "Look whether backups are whole."),
        ),
    ),
    Section(
        "Disks",
        (
            Entry("export", "ioflt.cli.backup.export", "export", "Serve a VM's disk over NBD, read-only."),
            Entry("exports", "ioflt.cli.backup.exports", "exports", "The exports that are open."),
            Entry("hotadd", "ioflt.cli.backup.hotadd", "hotadd", "Plug a VM's disk into a proxy VM."),
        ),
    ),
)

backup = LazyGroup(
    name="backup", sections=_SECTIONS, help="Back VMs up, look at backups, restore them; read disks."
)
