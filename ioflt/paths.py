"""Where ioflt keeps its state and its sockets: the two modes of ARCHITECTURE.md, in one place.

system mode (root)   /var/lib/ioflt               /run/ioflt
user mode            $XDG_STATE_HOME/ioflt        $XDG_RUNTIME_DIR/ioflt
with $IOFLT_HOME     $IOFLT_HOME/state            $IOFLT_HOME/run
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from ioflt.errors import UsageError


@dataclass(frozen=True, slots=True)
class Paths:
    """Directories of this user or host. Made on demand by `ensure`, mode 0700 (run: 0750 in system mode)."""

    state: Path
    run: Path
    system: bool

    @property
    def keyd_socket(self) -> Path:
        """The unix socket that keyd listens on."""
        return self.run / "keyd.sock"

    @property
    def mounts(self) -> Path:
        """Control sockets of running mounts, one `<id>.sock` each."""
        return self.run / "mounts"

    def control_socket(self, mountpoint: str) -> Path:
        """The control socket of the mount at `mountpoint`, an absolute path."""
        return self.mounts / f"{hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16]}.sock"

    @property
    def providers(self) -> Path:
        """Key providers' files, one `<name>.json` each."""
        return self.state / "providers"

    @property
    def logs(self) -> Path:
        """keyd.log and mount.log, apart from everything that a mount must not touch."""
        return self.state / "logs"

    @property
    def operations(self) -> Path:
        """One empty file per authorised decrypt in progress, named by its one-time id."""
        return self.state / "operations"

    @property
    def homes(self) -> Path:
        """What is remembered of homes, one file per home id: see `datastore.memory`."""
        return self.state / "homes"

    @property
    def outdated(self) -> Path:
        """By earlier versions: an empty file per home that was encrypted, named by its id while clear."""
        return self.state / "outdated"

    @property
    def datastores(self) -> Path:
        """One small file per datastore that was opened here, named by its id: where it was last."""
        return self.state / "datastores"

    @property
    def removed_keys(self) -> Path:
        """One small file per key that this host is to do without."""
        return self.state / "removed-keys"

    def ensure(self) -> Paths:
        """Make the directories that are missing. Raises UsageError when that cannot be done."""
        run_mode = 0o750 if self.system else 0o700
        notes = (self.operations, self.homes, self.datastores, self.removed_keys)
        wanted = [(path, 0o700) for path in (self.state, self.providers, self.logs, *notes)]
        try:
            for path, mode in (*wanted, (self.run, run_mode), (self.mounts, run_mode)):
                if not path.is_dir():
                    path.mkdir(mode=mode, parents=True, exist_ok=True)
                    path.chmod(mode)
        except OSError as error:
            raise UsageError(f"cannot make the directory: {error.strerror}", file=error.filename) from error
        return self


def find() -> Paths:
    """The directories for this process, from its uid and environment."""
    home = os.environ.get("IOFLT_HOME")
    system = os.geteuid() == 0
    if home:
        base = Path(home).absolute()
        return Paths(base / "state", base / "run", system)
    if system:
        return Paths(Path("/var/lib/ioflt"), Path("/run/ioflt"), True)
    state = Path(os.environ.get("XDG_STATE_HOME") or _home() / ".local" / "state")
    run = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
    if not run.is_dir():
        run = state / "ioflt"
        return Paths(state / "ioflt", run / "run", False)
    return Paths(state / "ioflt", run / "ioflt", False)


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise UsageError("this user has no home directory") from error
