"""Whether a proxy VM is itself encrypted: else the plaintext that it is given may come to rest in clear."""

from __future__ import annotations

from pathlib import Path

from ioflt.backup import mountedfiles
from ioflt.backup.blocknodes import FILES, Node, nodes
from ioflt.backup.mountedfiles import Mount
from ioflt.backup.qmp import Monitor
from ioflt.datastore.standing import Treatment
from ioflt.datastore.volume import Volume
from ioflt.errors import DeniedError
from ioflt.keys.service import KeyService


def check_encrypted(monitor: Monitor, keys: KeyService, passing: str) -> None:
    """See that whatever the VM can write to is an encrypted file in a mount of this host.

    `passing`: how names of nodes begin that do not count. Raises DeniedError that names one which is not,
    or says that it has no disk; PeerError.
    """
    mounts = mountedfiles.mounts()
    own = [
        node
        for node in nodes(monitor)
        if node.is_storage and not node.read_only and not node.name.startswith(passing)
    ]
    if not own:
        raise _refusal(monitor, "it has no disk of its own, by which that could be told")
    for node in own:
        if not _is_encrypted(node, mounts, keys):
            raise _refusal(monitor, f"{node.file} is no encrypted disk in a mount of this host")


def _is_encrypted(node: Node, mounts: list[Mount], keys: KeyService) -> bool:
    found = mountedfiles.locate(node.file, mounts) if node.driver in FILES else None
    if found is None:
        return False
    with Volume.open(found.mount.datastore, keys, read_only=True) as volume:
        return volume.home(found.vm).treatment(found.path) is not Treatment.CLEAR


def _refusal(monitor: Monitor, why: str) -> DeniedError:
    told = "hotadd transport of an encrypted virtual machine: the proxy VM must be encrypted as well; "
    return DeniedError(told + why, file=Path(monitor.path))
