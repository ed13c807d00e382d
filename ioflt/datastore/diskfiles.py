"""Which files belong to one virtual disk: descriptors, their extents and change tracking, all of its chain.

A chain is converted as a whole: a disk, its parents, and whatever else was made from those. All of it lies in
one directory, as descriptors name nothing outside of theirs: that of a linked clone is refused.

What names what is read from descriptors, and who controls the datastore writes those that are clear. So when
files are to be decrypted only encrypted descriptors are asked (`trusted`): a forged one cannot drag another
disk's files along. A guest cannot forge any: a text that is a descriptor is smaller than its disk, and what a
text names as its extent is not taken for a disk itself.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from ioflt.datastore import clearlist, files, regular
from ioflt.datastore.home import Home
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.regular import Entry
from ioflt.datastore.standing import Treatment, stored_as
from ioflt.errors import CorruptDataError, UnsupportedError, UsageError
from ioflt.format.vmdk import descriptor, sparse
from ioflt.format.vmdk.descriptor import Descriptor

#: Whether the descriptor at a path is asked what it names.
Trusted = Callable[[str], bool]


def of_disk(home: Home, path: str, trusted: Trusted) -> list[Entry]:
    """The files of the disk to which the file at `path` belongs, sorted, as far as `trusted` descriptors say;
    none when it belongs to none.

    Raises UsageError for a path where no file is, and for hard links of what is no part of the disk;
    UnsupportedError for a descriptor that names a VMX, or what is no regular file; CorruptDataError when
    `path` is a descriptor that is refused; KeyUnavailableError, OSError.
    """
    directory = os.path.dirname(path)
    beside = {
        entry.path: entry for entry in regular.regular_files(home) if os.path.dirname(entry.path) == directory
    }
    if path not in beside:
        raise UsageError(f"there is no file {path!r} in it")
    disks = _disks(
        home, [one for one in beside if one.lower().endswith(".vmdk") or one == path], path, trusted
    )
    links: dict[str, set[str]] = defaultdict(set)
    for one, disk in disks.items():
        for name in disk.file_names:
            named = os.path.join(directory, name)
            links[one].add(named)
            links[named].add(one)
    if path not in disks and path not in links:
        return []
    found = [
        one for one in sorted(_reachable(path, links)) if one in beside or clearlist.exists(home.fd, one)
    ]
    for one in found:
        if one not in beside:
            raise UnsupportedError(
                "not a regular file", "a part of the disk", file=regular.full_path(home, one)
            )
        if stored_as(one) is Treatment.VMX:
            raise UnsupportedError("names a VMX as a part of the disk", file=regular.full_path(home, path))
    _refuse_links(home, [beside[one] for one in found])
    return [beside[one] for one in found]


def _disks(home: Home, paths: Iterable[str], wanted: str, trusted: Trusted) -> dict[str, Descriptor]:
    """The trusted descriptors in these files; one that is refused is passed over, unless it is `wanted`."""
    texts: dict[str, Descriptor] = {}
    embedded: dict[str, Descriptor] = {}
    for path in filter(trusted, paths):
        try:
            with regular.named(home, path), closing(_open(home, path)) as file:
                start = bytes(file.read(0, sparse.PROBE_SIZE))
                if descriptor.is_descriptor(start) and file.length <= descriptor.MAX_SIZE:
                    text = bytes(file.read(0, descriptor.MAX_SIZE))
                    texts[path] = descriptor.parse(text, os.path.basename(path))
                elif start[:4] == sparse.MAGIC and (inner := sparse.descriptor_of(start)) is not None:
                    # what its extent is called there nobody reads, it is this file
                    embedded[path] = replace(descriptor.parse(inner), extents=())
        except CorruptDataError:
            if path == wanted:
                raise
    extents = {
        os.path.join(os.path.dirname(path), extent.file_name)
        for path, found in texts.items()
        for extent in found.extents
        if extent.file_name is not None
    }
    return {path: found for path, found in (texts | embedded).items() if path not in extents}


def _open(home: Home, path: str) -> OpenFile:
    fd = regular.open_file(home, path)
    try:
        treatment = home.treatment(path, fd)
    except BaseException:  # nobody else closes it
        os.close(fd)
        raise
    return files.open_file(home, fd, treatment, writable=False, place=lambda: None, name=path)


def _reachable(path: str, links: Mapping[str, set[str]]) -> set[str]:
    found, waiting = {path}, [path]
    while waiting:
        new = links.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def _refuse_links(home: Home, entries: Sequence[Entry]) -> None:
    """Raises UsageError for a file with another name, which would become another file."""
    names = Counter((entry.info.st_dev, entry.info.st_ino) for entry in entries)
    for entry in entries:
        if entry.info.st_nlink > names[entry.info.st_dev, entry.info.st_ino]:
            raise UsageError(
                "has other names (hard links), which are not of this disk",
                file=regular.full_path(home, entry.path),
            )
