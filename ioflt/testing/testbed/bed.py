"""One test bed: a directory with all that it consists of, and an $IOFLT_HOME of its own.

The commands that make it are those that anybody would type, each a process of its own, so that what is in the
bed is what they make.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from ioflt.access.principals import Kind, Principal
from ioflt.errors import BusyError, ExistsError, NotFoundError, PeerError, UsageError
from ioflt.fuse import starter
from ioflt.keys.starter import environment
from ioflt.testing.testbed import guest, kms, proxy
from ioflt.testing.testbed.faulty import Switches
from ioflt.testing.testbed.mount import VARIABLE
from ioflt.testing.testbed.process import Process
from ioflt.testing.testbed.scenario import SCENARIOS, Scenario

#: For whom the bed's mount is: the service of a backup tool, with the role that such ones have.
SERVICE: Final = Principal(Kind.SERVICE, "backup")
ROLE: Final = "backup-operator"

#: The longest path of a bed: sockets lie below it, and the address of one has 108 bytes.
_MAX_PATH: Final = 60

_COMMAND_S: Final = 120.0

#: The same VM, not encrypted: whoever reads the datastore itself has it.
CLEAR: Final = "clear01"

#: Of VMs that are not encrypted.
_CLEAR_POLICY: Final = "Datastore Default"


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What has to be remembered. `proxy`: the QEMU of the proxy VM. `faults`: those that are on, with their
    number.
    """

    scenario: str
    server: kms.Server | None = None
    proxy: Process | None = None
    faults: dict[str, int] = {}


class Bed:
    """The bed in that directory. Raises NotFoundError when there is none."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        if not self._file.is_file():
            raise NotFoundError("no test bed here", file=directory)

    @classmethod
    def up(cls, directory: Path, scenario: Scenario) -> Bed:
        """Make one in a directory that is not there, or empty. Nothing is left of one that cannot be made.

        Raises ExistsError, UsageError, PeerError.
        """
        directory = directory.absolute()
        if len(os.fsencode(directory)) > _MAX_PATH:
            raise UsageError(
                f"its path is longer than {_MAX_PATH} bytes, and sockets lie in it", file=directory
            )
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if os.listdir(directory):
                raise ExistsError("is not empty", file=directory)
        except FileExistsError as error:
            raise ExistsError("is no directory", file=directory) from error
        _save(directory, State(scenario.name))
        bed = cls(directory)
        try:
            bed._make(scenario)
        except BaseException:  # Ctrl-C, too: no server and no mount is left
            bed.down()
            raise
        return bed

    # What it is

    @property
    def _file(self) -> Path:
        return self.directory / "bed.json"

    @property
    def state(self) -> State:
        return msgspec.json.decode(self._file.read_bytes(), type=State)

    def note(self, state: State) -> None:
        """Remember that."""
        _save(self.directory, state)

    @property
    def scenario(self) -> Scenario:
        return SCENARIOS[self.state.scenario]

    @property
    def home(self) -> Path:
        """Its $IOFLT_HOME."""
        return self.directory / "home"

    @property
    def datastore(self) -> Path:
        """What is stored: ciphertext. A raw reader of storage sees this ("SAN")."""
        return self.directory / "ds"

    @property
    def mountpoint(self) -> Path:
        return self.directory / "mnt"

    @property
    def vm(self) -> Path:
        """The VM through the mount."""
        return self.mountpoint / guest.NAME

    @property
    def checksums(self) -> Path:
        """JSON: SHA-256 of the VM's `files`, of its `disks` as a guest sees them, of the `guest`'s files."""
        return self.directory / "checksums.json"

    @property
    def kms_directory(self) -> Path:
        return self.directory / "kms"

    @property
    def monitor(self) -> Path:
        """The QMP socket of the proxy VM."""
        return self.directory / "proxy.qmp"

    @property
    def variables(self) -> dict[str, str]:
        """In the environment of programs that use the bed, or serve it."""
        return {"IOFLT_HOME": str(self.home), VARIABLE: str(self._switches)}

    # What is done with it

    def ioflt(self, *arguments: object) -> str:
        """Run that command on the bed. Raises PeerError with what it said, if it fails."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "ioflt", *map(str, arguments)],
            env=environment() | self.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_S,
        )
        if done.returncode != 0:
            raise PeerError(f"ioflt {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return done.stdout

    def mount(self) -> None:
        """Mount it for the service, by the process that has the filter for faults."""
        with _set(**self.variables):
            starter.start(
                self.datastore,
                self.mountpoint,
                read_only=False,
                allow_other=False,
                principal=SERVICE,
                module="ioflt.testing.testbed.mount",
            )

    def serve(self, mode: kms.Mode) -> None:
        """Have the key server be that, and keyd ask it again: it forgets all keys. What is open goes on."""
        state = self.state
        if state.server is None:
            raise UsageError(f"the scenario {state.scenario} has no key server")
        self.note(msgspec.structs.replace(state, server=kms.start(self.kms_directory, state.server, mode)))
        self.ioflt("keyd", "stop")

    def switch(
        self, *, bad: tuple[int, int] | None = None, delay_ms: int | None = None, full: bool | None = None
    ) -> None:
        """Set the switches of the mount's filter; what the kernel has of the VM's files it reads anew."""
        switches = Switches(self._switches)
        switches.set(bad=bad, delay_ms=delay_ms, full=full)
        switches.close()
        for path in self.vm.iterdir():
            try:
                fd = os.open(path, os.O_RDONLY)
            except OSError:  # by another fault
                continue
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)

    def start_proxy(self) -> None:
        """Start the proxy VM, which is made first; no error where it runs."""
        if self.state.proxy is not None:
            return
        if not (self.datastore / proxy.NAME).exists():
            proxy.make_vm(self._source)
            self.ioflt("vm", "import", self._source, self.datastore, "--as", proxy.NAME)
            shutil.rmtree(self._source)
        running = proxy.start(self.mountpoint / proxy.NAME / proxy.DISK, self.monitor)
        self.note(msgspec.structs.replace(self.state, proxy=running))

    def convert_proxy(self, how: str) -> None:
        """`vm encrypt` or `vm decrypt` the proxy VM, which is off meanwhile."""
        if self.state.proxy is None:
            raise UsageError(f"no proxy VM runs in the scenario {self.state.scenario}")
        self._stop_proxy()
        self.ioflt("vm", how, self.datastore / proxy.NAME)
        self.start_proxy()

    def _stop_proxy(self) -> None:
        running = self.state.proxy
        if running is not None:
            running.kill()
            self.monitor.unlink(missing_ok=True)
            self.note(msgspec.structs.replace(self.state, proxy=None))

    def track(self, *, on: bool) -> None:
        """Track the changed blocks of the VM's disk, or no more."""
        self.ioflt("cbt", "enable" if on else "disable", self.datastore / guest.NAME, guest.DISK)

    def down(self) -> None:
        """End all that runs in it, and remove the directory."""
        self._stop_proxy()
        with _set(**self.variables):
            if starter.is_mounted(str(self.mountpoint)):
                _unmount(self.mountpoint)
        self.ioflt("keyd", "stop")
        server = self.state.server
        if server is not None and server.process is not None:
            server.process.kill()
        shutil.rmtree(self.directory)

    @property
    def _source(self) -> Path:
        """Where VMs are made, in clear; known contents, and removed."""
        return self.directory / "source"

    @property
    def _switches(self) -> Path:
        return self.directory / "switches"

    def _make(self, scenario: Scenario) -> None:
        for path in (self.home, self.mountpoint):
            path.mkdir(mode=0o700)
        Switches.make(self._switches)
        provider = self._make_provider(scenario)
        self.ioflt("datastore", "init", self.datastore, *provider)
        self.ioflt("service", "create", SERVICE.name)
        self.ioflt("permission", "grant", SERVICE, ROLE, self.datastore)
        self._make_vm(scenario)
        self.mount()
        if scenario.proxy:
            self.start_proxy()

    def _make_provider(self, scenario: Scenario) -> tuple[str, ...]:
        """Options that name the provider of the datastore's keys, with which all is well."""
        if not scenario.kms:
            passphrase = self.directory / "passphrase"
            passphrase.touch(mode=0o600)
            passphrase.write_text("test bed\n")
            backup = ("--passphrase-file", passphrase)  # else each command reminds of it
            self.ioflt("provider", "create", "native", "local")
            self.ioflt("provider", "backup", "local", self.directory / "local.p12", *backup)
            return "--provider", "local"
        server, authority = kms.make(self.kms_directory)
        self.note(msgspec.structs.replace(self.state, server=server))
        name, request, signed = kms.PROVIDER, self.kms_directory / "csr", self.kms_directory / "crt"
        self.ioflt("provider", "create", "kmip", name, "--server", server.address, "--csr", "--out", request)
        signed.write_text(authority.sign(request.read_text(), kms.DAYS))
        self.ioflt("provider", "trust", name, "--certificate", signed, "--ca", authority.path)
        return "--provider", name

    def _make_vm(self, scenario: Scenario) -> None:
        source, disk = self._source, self.directory / "disk.raw"
        guest.make_disk(disk)
        guest.make_vm(source, disk)
        self.ioflt("vm", "import", source, self.datastore, "--as", CLEAR, "--policy", _CLEAR_POLICY)
        for name, options in scenario.formats:
            subprocess.run(["qemu-img", "convert", "-f", "raw", *options, disk, source / name], check=True)
        digest = guest.sha256(disk)
        known = {
            "files": {path.name: guest.sha256(path) for path in sorted(source.iterdir())},
            "disks": {name: digest for name in (guest.DISK, *(name for name, _ in scenario.formats))},
            "guest": guest.checksums(),
        }
        self.checksums.write_text(json.dumps(known, indent=2) + "\n")
        self.ioflt("vm", "import", source, self.datastore, "--as", guest.NAME)
        self.track(on=True)
        shutil.rmtree(source)
        disk.unlink()


def _save(directory: Path, state: State) -> None:
    draft = directory / "bed.json.new"
    draft.write_bytes(msgspec.json.encode(state))
    draft.replace(directory / "bed.json")


def _unmount(mountpoint: Path) -> None:
    """Also while something still uses it, which then has no more of it."""
    try:
        starter.stop(mountpoint)
    except BusyError:
        subprocess.run(starter.umount_command(str(mountpoint), lazily=True), check=True)


@contextmanager
def _set(**variables: str) -> Iterator[None]:
    """Environment variables, for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
