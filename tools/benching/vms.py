"""Rows about whole VMs: read by qemu-img, encrypted, recrypted, backed up; many of them in one datastore."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import processes
from .filesystem import DISK
from .names import OPENED, opened
from .places import Ioflt, Places
from .programs import IOFLT, ioflt, run
from .results import PLACES, Row, Sample
from .work import MIB, Extent, Work, forget_pages, seconds

#: A piece of data in as many times its size: a thin disk of a guest that has been used a while.
_PIECE = 8 * MIB
_THIN = 4

#: VMs that are made side by side: each waits for the device several times.
_MAKERS = 16

#: And by one mount: it keeps two descriptors of each VM that it met, and where the limit is 20,000 it has no
#: more for files when there are 9,400.
_AT_ONCE = 2500


def descriptor(extent: str, size: int) -> str:
    """The text of a VMDK whose data is in that file beside it."""
    return (
        "# Disk DescriptorFile\nversion=1\nCID=5e0c2d01\nparentCID=ffffffff\n"
        f'createType="vmfs"\nRW {size // 512} VMFS "{extent}"\n#DDB\nddb.adapterType = "lsilogic"\n'
    )


def thin_disk(directory: Path, name: str, data: int, *, share: int = _THIN) -> Path:
    """A flat VMDK that is `share` times as long as its data, which is noise. Returns the descriptor."""
    extent = directory / f"{name}-flat.vmdk"
    with open(extent, "wb") as file:
        file.truncate(share * data)
        for at in range(0, data, _PIECE):
            file.seek(share * at)
            file.write(os.urandom(min(_PIECE, data - at)))
    path = directory / f"{name}.vmdk"
    path.write_text(descriptor(extent.name, share * data))
    return path


class Convert(Work):
    """A thin disk to a raw one on the disk behind the mount, by large requests past the kernel's cache."""

    rows = (Row("convert", "qemu-img convert, of its data", "MiB/s"),)
    places = PLACES

    def measure(self, places: Places, place: str, extent: Extent) -> Mapping[str, Sample]:
        where, target = places[place], places.base / "converted.raw"
        source = where.directory / "thin.vmdk"
        if not source.exists():
            thin_disk(where.directory, "thin", extent.size)
        os.sync()
        forget_pages(source.with_name("thin-flat.vmdk"))
        command = ("qemu-img", "convert", "-T", "none", "-f", "vmdk", "-O", "raw", source, target)
        took = seconds(run, *command)
        target.unlink()
        return {"convert": Sample(extent.size / MIB / took)}


class Rewrites(Work):
    """What reads and writes all of a VM, up to the device; beside them a copy, which does so, too."""

    rows = (
        Row("vm-encrypt", "vm encrypt", "MiB/s"),
        Row("vm-recrypt-deep", "vm recrypt --deep", "MiB/s"),
        Row("backup-run", "backup run", "MiB/s"),
    )
    places = ("ioflt", "copy")

    def __init__(self) -> None:
        self._vm: Path | None = None

    def measure(self, places: Places, place: str, extent: Extent) -> Mapping[str, Sample]:
        vm = self._vm = self._vm or self._make(places.base / "vms", extent.size)
        os.sync()
        took = self._copy(vm) if place == "copy" else self._work(vm)
        return {name: Sample(extent.size / MIB / each) for name, each in took.items()}

    @staticmethod
    def _make(store: Path, size: int) -> Path:
        """A VM of one disk without holes, clear, in a datastore that is not mounted."""
        vm = store / "web"
        vm.mkdir(parents=True)
        ioflt("datastore", "init", store, "--encrypt")
        ioflt("vm", "decrypt", vm)
        thin_disk(vm, "web", size, share=1)
        return vm

    @staticmethod
    def _work(vm: Path) -> dict[str, float]:
        backups = vm.parents[1] / "backups"
        took = {
            "vm-encrypt": seconds(ioflt, "vm", "encrypt", vm),
            "vm-recrypt-deep": seconds(ioflt, "vm", "recrypt", "--deep", vm),
            "backup-run": seconds(ioflt, "backup", "run", vm, backups),
        }
        shutil.rmtree(backups)
        ioflt("vm", "decrypt", vm)
        return took

    @staticmethod
    def _copy(vm: Path) -> dict[str, float]:
        target = vm.parents[1] / "copy"
        took = seconds(run, "dd", f"if={vm / 'web-flat.vmdk'}", f"of={target}", "bs=1M", "conv=fsync")
        target.unlink()
        return dict.fromkeys((row.name for row in Rewrites.rows), took)


class Help(Work):
    """How long a command takes to begin."""

    rows = (Row("help", "ioflt --help", "ms"),)
    places = ("ioflt",)

    def measure(self, places: Places, place: str, extent: Extent) -> Mapping[str, Sample]:
        return {"help": Sample(1000 * seconds(run, IOFLT, "--help"))}


class ManyVms(Work):
    """The mount of a datastore of many encrypted VMs, with a file in each."""

    rows = (
        Row("vms-mount", "mount of many VMs, until it serves", "ms"),
        Row("vms-stat", "the first stat in it", "ms"),
        Row("vms-memory", "memory of it", "MiB"),
        Row("vms-open-memory", "memory of it, with disks of 1,000 VMs open", "MiB"),
        Row("vms-open-keyd", "memory of keyd, with disks of 1,000 VMs open", "MiB"),
    )
    places = ("ioflt",)

    def __init__(self) -> None:
        self._system: Ioflt | None = None

    def measure(self, places: Places, place: str, extent: Extent) -> Mapping[str, Sample]:
        system = self._system = self._system or self._make(places, extent.vms)
        mounted = seconds(system.mount)
        disks = [system.mountpoint / f"vm{number}" / DISK for number in range(extent.vms)]
        figures = {
            "vms-mount": Sample(1000 * mounted),
            "vms-stat": Sample(1000 * seconds(disks[extent.vms // 2].stat)),
            "vms-memory": Sample(processes.memory(system.pids())),
        }
        with opened(disks[:OPENED]):
            figures["vms-open-memory"] = Sample(processes.memory(system.pids()))
            figures["vms-open-keyd"] = Sample(processes.memory(system.helpers()))
        system.unmount()
        return figures

    @staticmethod
    def _make(places: Places, count: int) -> Ioflt:
        system = places.another(Ioflt, "many")

        def make(number: int) -> None:
            vm = system.mountpoint / f"vm{number}"
            vm.mkdir()
            (vm / DISK).write_bytes(b"data")

        for start in range(0, count, _AT_ONCE):
            system.mount()
            with ThreadPoolExecutor(_MAKERS) as pool:
                list(pool.map(make, range(start, min(start + _AT_ONCE, count))))
            system.unmount()
        return system
