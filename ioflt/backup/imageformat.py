"""What QEMU is told that a disk's file is, by its first bytes as the library sees them: it never guesses."""

from __future__ import annotations

import os
from contextlib import closing
from typing import Final

from ioflt.datastore import files, regular
from ioflt.datastore.home import Home
from ioflt.errors import NotFoundError, UnsupportedError, UsageError
from ioflt.format.qcow2 import header as qcow2_header
from ioflt.format.vmdk import descriptor, sparse

_SE_SPARSE: Final = (0xCAFEBABE).to_bytes(8, "little")
_COWD: Final = b"COWD"


def of(home: Home, path: str) -> str:
    """`vmdk`, `qcow2` or `raw`. Raises NotFoundError, UsageError for what is an extent of a disk,
    UnsupportedError, KeyUnavailableError, DeniedError, StorageError.
    """
    shown = regular.full_path(home, path)
    try:
        fd = regular.open_file(home, path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError("no such disk", file=shown) from error
    try:
        treatment = home.treatment(path, fd)
    except BaseException:  # nobody else closes it
        os.close(fd)
        raise
    file = files.open_file(home, fd, treatment, writable=False, place=lambda: None, name=shown)
    with closing(file):
        start = bytes(file.read(0, sparse.PROBE_SIZE))
    if descriptor.is_descriptor(start) or start[:4] == sparse.MAGIC:
        return "vmdk"
    if qcow2_header.is_qcow2(start):
        return "qcow2"
    if start[:4] == _COWD or start[:8] == _SE_SPARSE:
        raise UsageError("an extent of a disk: name the disk's descriptor", file=shown)
    if path.lower().endswith(".vmdk") and not path.lower().endswith("-flat.vmdk"):
        raise UnsupportedError("no VMDK", "neither a descriptor nor a sparse extent", file=shown)
    return "raw"
