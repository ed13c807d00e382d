"""The VMDK descriptors of a datastore and what they name: whether it is there, and fits."""

from __future__ import annotations

import os
from dataclasses import replace

from ioflt.datastore.openfile import OpenFile
from ioflt.errors import CorruptDataError, IntegrityError, MalformedError
from ioflt.format.vmdk import descriptor, sparse
from ioflt.format.vmdk.descriptor import NO_PARENT, Descriptor


class Chains:
    """Collects the `.vmdk` files of a home, then judges them together. Paths are relative to the datastore.

    A guest may write what looks like a descriptor to the start of its flat disk; so a file that another
    descriptor names as its extent is not judged by what it says.
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._lengths: dict[str, int] = {}
        self._parsed: dict[str, Descriptor] = {}
        self._bad: dict[str, str] = {}
        self._extents: set[str] = set()

    def see(self, path: str) -> None:
        """A file is there, readable or not."""
        self._seen.add(path)

    def add(self, path: str, file: OpenFile) -> None:
        """Read a file. Raises what reading raises; what is wrong with its text waits for `finding`."""
        self._lengths[path] = file.length
        try:
            text, own_name = _text(path, file)
            if text is None:
                return
            parsed = descriptor.parse(text, own_name)
        except IntegrityError:  # of the file, whether it is a disk's text or not
            raise
        except CorruptDataError as error:
            self._bad[path] = error.message
            return
        if own_name is None:  # embedded: what its extent is called there nobody reads, it is this file
            parsed = replace(parsed, extents=())
        self._parsed[path] = parsed
        names = {extent.file_name for extent in parsed.extents if extent.file_name is not None}
        self._extents |= {_beside(path, name) for name in names} - {path}

    def finding(self, path: str) -> str | None:
        """What is wrong with the disk whose descriptor is at `path`; None also when it has none.

        Call it when all files of the directory were added.
        """
        if path in self._extents:
            return None
        parsed = self._parsed.get(path)
        if parsed is None:
            return self._bad.get(path)
        return self._extent_finding(path, parsed) or self._parent_finding(path, parsed)

    def _extent_finding(self, path: str, parsed: Descriptor) -> str | None:
        for extent in parsed.extents:
            if extent.file_name is None:
                continue
            named = _beside(path, extent.file_name)
            if named not in self._seen:
                return f"missing extent ({extent.file_name})"
            length = self._lengths.get(named)
            if (
                length is not None
                and extent.kind in ("FLAT", "VMFS")
                and length < (extent.offset + extent.sectors) * 512
            ):
                return f"extent too short ({extent.file_name}: {length} bytes)"
        return None

    def _parent_finding(self, path: str, parsed: Descriptor) -> str | None:
        seen = {path}
        while (name := parsed.parent_file_name_hint) is not None:
            path = _beside(path, name)
            if path in seen:
                return f"its parents form a ring ({name})"
            seen.add(path)
            if path not in self._seen:
                return f"missing parent ({name})"
            parent = self._parsed.get(path)
            if parent is None:
                return f"its parent cannot be read ({name})"
            if parent.cid != parsed.parent_cid:
                return f"its parent was changed ({name}: CID {parent.cid:08x}, not {parsed.parent_cid:08x})"
            parsed = parent
        return None if parsed.parent_cid == NO_PARENT else "a parent's CID without its name"


def _text(path: str, file: OpenFile) -> tuple[bytes | None, str | None]:
    """The descriptor that the file is or embeds, and the file's name if it is one."""
    start = bytes(file.read(0, sparse.PROBE_SIZE))
    if not descriptor.is_descriptor(start):
        return sparse.descriptor_of(start), None
    if file.length > descriptor.MAX_SIZE:
        raise MalformedError("too large", f"descriptor of {file.length} bytes")
    return bytes(file.read(0, descriptor.MAX_SIZE)), os.path.basename(path)


def _beside(path: str, name: str) -> str:
    return os.path.join(os.path.dirname(path), name)
