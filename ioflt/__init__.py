"""ioflt: encrypted VM storage, as a file system.

The way in, from the mount to one encrypted sector:

    cli/mount.py            the command
    fuse/operations.py      FUSE requests, translated (fuse/files.py: read and write)
    datastore/container.py  one encrypted file: exact length, holes, what must be durable when
    filters/vmcrypt.py      the encryption filter: sectors, read-modify-write
    crypto/xts.py           the sector cipher

ARCHITECTURE.md draws the rooms; each format has a SPEC.md in its room.
"""

__version__ = "0.1.0.dev0"
