"""The I/O filter chain over one backing file.

A chain is built bottom up: `backing.Backing` (the file), then `vmcrypt.VmCrypt`, then others.
Offsets are bytes of the disk or file as the guest sees it. Each filter hands on what it does not change.
`written` is told by the bottom what was written, for who copies meanwhile.
Calls are synchronous and hold no lock: whoever has a chain keeps overlapping calls apart
(the mount by range locks, everybody else by using the file alone).
"""
