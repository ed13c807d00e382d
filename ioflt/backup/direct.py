"""Transports that read the datastore's files themselves: `file` through its keys, `san` as they lie there."""

from __future__ import annotations

import os
from typing import Final

from ioflt.datastore import regular
from ioflt.datastore.disks import Disk
from ioflt.datastore.home import Home
from ioflt.datastore.tree import HomeSide, HostSide, Side
from ioflt.datastore.volume import Volume
from ioflt.errors import DeniedError, MalformedError, NotFoundError, UsageError
from ioflt.types import HomeState

#: Modes that read an encrypted VM.
KEYED: Final = ("file", "nbd", "nbdssl", "hotadd")


def open_file(volume: Volume, vm: str, disk: str) -> Disk:
    """Mode `file`. Who has the VM's keys decrypts: keyd asks for Cryptographer.Access.

    Nobody is kept from writing meanwhile: of a VM that runs, reads may be of different times.
    """
    home = volume.home(vm)
    return _open(HomeSide(home), home, disk)


def open_san(volume: Volume, vm: str, disk: str) -> Disk:
    """Mode `san`: bytes as a raw reader of the datastore has them, which needs no key.

    Raises DeniedError as `check_san`.
    """
    home = volume.home(vm)
    check_san(home)
    return _open(HostSide(), home, disk)


def check_san(home: Home) -> None:
    """Raises DeniedError for an encrypted VM, by what its record says: what is there is ciphertext."""
    if home.unverified().state is HomeState.ENCRYPTED:
        modes = f"{', '.join(KEYED[:-1])} or {KEYED[-1]}"
        error = DeniedError(
            "san transport of an encrypted virtual machine is not supported, as what it would read is"
            f" ciphertext; the modes that read it are {modes}",
            file=regular.full_path(home),
        )
        error.vddk = "VIX_E_DISK_NEEDKEY"
        raise error


def _open(side: Side, home: Home, disk: str) -> Disk:
    path = os.path.normpath(disk)
    if os.path.isabs(path) or path == ".." or path.startswith("../") or "\0" in path:
        raise UsageError("not the path of a disk in its VM's home", file=disk)
    top = regular.full_path(home)
    try:
        return Disk(side, home.fd, path, where=top)
    except MalformedError as error:
        if error.reason == "no such file" and error.file == os.path.join(top, path):
            raise NotFoundError("no such disk", file=error.file) from error
        raise
