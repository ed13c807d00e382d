"""VMX files exchanged with VMware's programs: sealed under a passphrase there, as the home says here."""

from __future__ import annotations

import os

from ioflt.crypto.secret import Secret
from ioflt.datastore import atomic, files
from ioflt.datastore.home import Home
from ioflt.datastore.newcontainer import new_file_id
from ioflt.datastore.standing import Treatment, stored_as
from ioflt.datastore.vmx import read_sealed, seal_new
from ioflt.datastore.volume import Volume
from ioflt.errors import CorruptDataError, ExistsError, NotFoundError, UsageError
from ioflt.format.vmx import passphrase as foreign
from ioflt.format.vmx import sealed
from ioflt.format.vmx import text as vmx_text
from ioflt.types import HomeState


def export(volume: Volume, name: str, passphrase: Secret) -> bytes:
    """The home's VMX, sealed under the passphrase.

    Raises NotFoundError when it has none, UsageError when it has several, CorruptDataError,
    KeyUnavailableError, OSError.
    """
    home = volume.home(name)
    vmx = _only_vmx(home)
    fd = files.open_regular(home.fd, vmx, os.O_RDONLY)
    treatment = home.treatment(vmx, fd)
    file = files.open_file(home, fd, treatment, writable=False, place=lambda: None, name=vmx)
    try:
        if file.length > vmx_text.MAX_PLAINTEXT:
            raise UsageError(f"too large for a VMX: {file.length} bytes", file=vmx)
        return foreign.export_passphrase(bytes(file.read(0, file.length)), passphrase)
    finally:
        file.close()


def import_(
    volume: Volume, name: str, source: str | os.PathLike[str], passphrase: Secret, *, force: bool
) -> str:
    """Put the VMX in `source`, sealed under the passphrase, into the home, under its own name; that name.

    With `force` it replaces the one of that name, or stands beside others. Raises ExistsError, ReadOnlyError,
    BusyError, CorruptDataError with the file's name, KeyUnavailableError, OSError.
    """
    file_name = os.path.basename(os.fspath(source))
    if stored_as(file_name) is not Treatment.VMX:
        raise UsageError("not the name of a VMX", file=source)
    plaintext = _unsealed(source, passphrase)
    home = volume.home(name)
    standing = home.check_writable()
    with home.exclusive():
        old = _present(home, file_name)
        others = [other for other in _vmx_files(home) if other != file_name]
        if not force and (old is not None or others):
            there = file_name if old is not None else others[0]
            raise ExistsError("is there already", file=os.path.join(volume.path, name, there))
        data = plaintext
        if standing.state is HomeState.ENCRYPTED:
            data = seal_new(volume.keys, standing.keys, plaintext, _file_id(home, file_name))
        with atomic.Draft(home.fd) as draft:
            atomic.write_all(draft.fd, data)
            os.fchmod(draft.fd, 0o644)
            if old is not None:
                atomic.dress(draft.fd, old)
                os.utime(draft.fd)
            draft.publish_over(home.fd, file_name)
    return file_name


def _only_vmx(home: Home) -> str:
    found = _vmx_files(home)
    where = os.path.join(home.volume.path, home.name)
    if not found:
        raise NotFoundError("it has no VMX", file=where)
    if len(found) > 1:
        raise UsageError(f"it has several VMX files: {', '.join(found[:5])}", file=where)
    return found[0]


def _vmx_files(home: Home) -> list[str]:
    return sorted(name for name in os.listdir(home.fd) if stored_as(name) is Treatment.VMX)


def _unsealed(source: str | os.PathLike[str], passphrase: Secret) -> bytes:
    fd = files.open_regular(None, os.fspath(source), os.O_RDONLY)
    try:
        return foreign.import_passphrase(read_sealed(fd), passphrase)
    except CorruptDataError as error:
        error.file = os.fspath(source)
        raise
    finally:
        os.close(fd)


def _present(home: Home, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=home.fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _file_id(home: Home, name: str) -> int:
    """That of the file which is replaced, so that its inode number stays; else a new one."""
    try:
        fd = files.open_regular(home.fd, name, os.O_RDONLY)
    except (FileNotFoundError, CorruptDataError):
        return new_file_id()
    try:
        return sealed.peek(os.pread(fd, sealed.PEEK_SIZE, 0)).file_id
    except CorruptDataError:
        return new_file_id()
    finally:
        os.close(fd)
