"""The VMs that the administrator marked: the keys of this host, or what controls it, come from them.

The mark is the host's, not the VM's: on another host the same VM is one like others. It is kept where keyd's
state is, so that it is the same for all who use this keyd. An empty file for each, named by its home id.
"""

from __future__ import annotations

from pathlib import Path

from ioflt.errors import UsageError
from ioflt.format.record.record import HomeRecord, Move, Record
from ioflt.keys import files
from ioflt.wire.keyd.values import MAX_KEY_HOLDERS


class KeyHolders:
    """In a directory of mode 0700, which is there. Calls raise StorageError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def all(self) -> list[str]:
        """Their home ids, sorted."""
        return sorted(path.name for path in self._directory.iterdir() if not path.name.startswith("."))

    def mark(self, home_id: str, *, holds: bool) -> None:
        """Durably. Raises UsageError when too many are marked."""
        path = self._directory / home_id
        if not holds:
            files.destroy(path)
        elif not path.exists():
            if len(self.all()) >= MAX_KEY_HOLDERS:
                raise UsageError(f"{MAX_KEY_HOLDERS} VMs are marked already")
            files.replace(path, b"")

    def follow(self, old: Record | None, new: Record) -> None:
        """A record takes the place of a valid one: a VM that gets another id, or moves away, stays marked."""
        if not isinstance(old, HomeRecord) or not isinstance(new, HomeRecord):
            return
        if (self._directory / old.home_id).exists():
            moved = [new.operation.home_id] if isinstance(new.operation, Move) else []
            for home_id in {new.home_id, *moved} - {old.home_id}:
                self.mark(home_id, holds=True)
