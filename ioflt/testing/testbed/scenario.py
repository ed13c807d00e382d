"""What test beds there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Scenario:
    """`kms`: keys from a key server, else of this host. `proxy`: a proxy VM runs. `formats`: further disks,
    by file name: options of `qemu-img convert` by which the same disk is made.
    """

    name: str
    help: str
    kms: bool = True
    proxy: bool = False
    formats: tuple[tuple[str, tuple[str, ...]], ...] = ()


def _vmdk(subformat: str) -> tuple[str, ...]:
    return ("-O", "vmdk", "-o", f"subformat={subformat}")


_FORMATS = (
    ("sparse.vmdk", _vmdk("monolithicSparse")),
    ("stream.vmdk", _vmdk("streamOptimized")),
    ("disk.qcow2", ("-O", "qcow2")),
    ("disk.raw", ("-O", "raw")),
)

SCENARIOS: Final = {
    one.name: one
    for one in (
        Scenario("kmip", "A VM with a flat VMDK, its keys from a KMIP server."),
        Scenario("native", "The same with keys of this host; it has no faults of a key server.", kms=False),
        Scenario("proxy", "As kmip, and a proxy VM runs, for hot-add.", proxy=True),
        Scenario("formats", "As kmip, and the VM has the same disk in other formats too.", formats=_FORMATS),
    )
}
