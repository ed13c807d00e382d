"""Open files and directories of a mount, by the numbers that the kernel got."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field

from ioflt.fuse.nodes import Node


@dataclass(slots=True)
class FileHandle:
    """One open(2)."""

    node: Node
    writes: bool


@dataclass(slots=True)
class DirHandle:
    """One opendir(3). The names are listed when the reading starts, so that positions stay valid."""

    node: Node
    names: list[str] = field(default_factory=list)


class Handles:
    """Numbers are never used twice in the life of a mount."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.files: dict[int, FileHandle] = {}
        self.directories: dict[int, DirHandle] = {}

    def add_file(self, handle: FileHandle) -> int:
        number = next(self._numbers)
        self.files[number] = handle
        return number

    def add_directory(self, handle: DirHandle) -> int:
        number = next(self._numbers)
        self.directories[number] = handle
        return number


def writes(flags: int) -> bool:
    """Whether open(2) flags ask for write access."""
    return flags & os.O_ACCMODE != os.O_RDONLY or bool(flags & os.O_TRUNC)
