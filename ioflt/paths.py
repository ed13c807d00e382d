"""Where ioflt keeps its state and its sockets: the two modes of ARCHITECTURE.md, in one place.

system mode (root)   /var/lib/ioflt               /run/ioflt
its members          $XDG_STATE_HOME/ioflt        /run/ioflt
user mode            $XDG_STATE_HOME/ioflt        $XDG_RUNTIME_DIR/ioflt
with $IOFLT_HOME     $IOFLT_HOME/state            $IOFLT_HOME/run

Members are those whom the machine's keyd lets in by their group: the directory of its sockets is root's and
of that group. They use its keys, and remember what they see of homes for themselves.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from ioflt.errors import DeniedError, UsageError


@dataclass(frozen=True, slots=True)
class Paths:
    """Directories of this user or host. Made on demand by `ensure`, mode 0700 (run: 0750 in system mode).

    `joined`: a member's, whose keyd and sockets are the machine's.
    """

    state: Path
    run: Path
    system: bool
    joined: bool = False

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
    def exports(self) -> Path:
        """A private directory for each export of a virtual disk that is under way: see `backup.place`."""
        return self.run / "exports"

    @property
    def providers(self) -> Path:
        """Key providers' files, one `<name>.json` each."""
        return self.state / "providers"

    @property
    def access(self) -> Path:
        """Who may do what: see `ioflt/access/SPEC.md`."""
        return self.state / "access.json"

    @property
    def shared_keys(self) -> Path:
        """Which VMs share a key; keyd's."""
        return self.state / "shared-keys.json"

    @property
    def home_ids(self) -> Path:
        """The ids of homes of which keyd sealed a record."""
        return self.state / "home-ids"

    @property
    def logs(self) -> Path:
        """keyd.log and mount.log, apart from everything that a mount must not touch."""
        return self.state / "logs"

    @property
    def events(self) -> Path:
        """The event log's files, which only keyd writes."""
        return self.state / "events"

    def folder_events(self, folder: str) -> Path:
        """Those of the event log that a folder has of its own, by the name of a folder."""
        return self.events / f"folder-{folder}"

    @property
    def attest_key(self) -> Path:
        """The private key by which keyd signs reports."""
        return self.state / "attest.key"

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

    def own(self) -> Paths:
        """The same, for who changes providers. Raises DeniedError for a member: they are the machine's."""
        if self.joined:
            raise DeniedError(
                "only root does that with the key providers of this machine: it takes their files"
            )
        return self

    @property
    def policies(self) -> Path:
        """The host's own storage policies; keyd's."""
        return self.state / "policies.json"

    @property
    def key_holders(self) -> Path:
        """One empty file per VM that is marked as one from which the keys come, named by its home id."""
        return self.state / "key-holders"

    def ensure(self) -> Paths:
        """Make the directories that are missing. Raises UsageError when that cannot be done."""
        run_mode = 0o750 if self.system else 0o700
        kept = (self.events, self.operations, self.homes, self.datastores)
        notes = (*kept, self.removed_keys, self.key_holders)
        wanted = [(path, 0o700) for path in (self.state, self.providers, self.logs, *notes)]
        if not self.joined:
            wanted += [(self.run, run_mode), (self.mounts, run_mode)]
        try:
            for path, mode in wanted:
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
    machine = Path("/run/ioflt") if not home else Path(home).absolute() / "run"
    if not system and _is_member(machine):
        return Paths(_state(), machine, False, joined=True)
    if home:
        return Paths(machine.parent / "state", machine, system)
    if system:
        return Paths(Path("/var/lib/ioflt"), machine, True)
    run = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
    if not run.is_dir():
        return Paths(_state(), _state() / "run", False)
    return Paths(_state(), run / "ioflt", False)


def _is_member(run: Path) -> bool:
    """Whether a keyd in system mode has its sockets there, and lets a group of this user in."""
    try:
        found = run.stat()
    except OSError:
        return False
    groups = {os.getegid(), *os.getgroups()} - {0}  # root's own group is no one's membership
    return found.st_uid == 0 and found.st_gid in groups and bool(found.st_mode & stat.S_IXGRP)


def _state() -> Path:
    """This user's own."""
    return Path(os.environ.get("XDG_STATE_HOME") or _home() / ".local" / "state") / "ioflt"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise UsageError("this user has no home directory") from error
