"""Advice for errors, with a command ready to copy. Libraries state facts; only this file knows commands."""

from __future__ import annotations

import errno
import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import click

from ioflt import errors

_Advice = Callable[[errors.IofltError], str]


def _file(error: errors.IofltError, otherwise: str) -> str:
    return shlex.quote(error.file) if error.file else otherwise


def _above(error: errors.IofltError, otherwise: str) -> str:
    """The directory that holds what failed."""
    return shlex.quote(os.path.dirname((error.file or "").rstrip("/")) or otherwise)


def _provider(error: errors.IofltError) -> str:
    """The provider that the message names."""
    for pattern in (
        r"\bprovider ([\w.-]+)",
        r"\b(?:servers?|token) of ([\w.-]+)",
        r"\bkey \S+ of ([\w.-]+)",
    ):
        name = re.search(pattern, error.message)
        if name:
            return shlex.quote(name[1])
    return "NAME"


def _copied(error: errors.IofltError) -> str:
    own = f"ioflt vm recrypt --deep {_file(error, 'DIR/VM')}"
    return f"remove one of the two, or give one keys of its own: {own}"


def _disk_decryption(error: errors.IofltError) -> str:
    vm = _file(error, "DIR/VM")
    disk = re.search(r"of its disk (.*) was interrupted", error.message)
    named = shlex.quote(disk[1]) if disk else "FILE"
    return f"finish it, or go back: ioflt vm decrypt {vm} --disk {named}, ioflt vm encrypt {vm}"


def _header(error: errors.IofltError) -> str:
    if (error.file or "").lower().endswith(".vmx"):  # the one file of an encrypted VM that is no container
        return "nothing was changed"
    return "nothing was changed; a header backup may help: ioflt header restore BACKUP DIR/VM"


def _home(error: errors.IofltError) -> str:
    from ioflt.cli import places

    above = places.datastore_above(error.file or "")
    return (
        "name a datastore; this VM lies in none"
        if above is None
        else f"name its datastore: {shlex.quote(above)}"
    )


def _no_datastore(error: errors.IofltError) -> str:
    from ioflt.cli import places

    if not error.file:
        return "make it one: ioflt datastore init DIR"
    behind = places.behind_mount(error.file)
    if behind is not None:
        return f"this is a mount; name what it shows: {shlex.quote(behind)}"
    above = places.datastore_above(error.file)
    if above is not None:
        return f"it lies in a datastore: {shlex.quote(above)}"
    return f"make it one: ioflt datastore init {shlex.quote(error.file)}"


def for_no_vm(directory: str | os.PathLike[str], name: str) -> str:
    """Advice to who named `directory/name` for a VM, where `directory` is no datastore."""
    from ioflt.cli import places

    path = os.path.join(directory, name)
    above = places.datastore_above(directory)
    if above is not None:
        vm = os.path.relpath(os.path.realpath(directory), above).partition("/")[0]
        return f"it lies in a VM; name that: {shlex.quote(os.path.join(above, vm))}"
    behind = places.behind_mount(path)
    if behind is not None:
        return f"this is in a mount; name what it shows: {shlex.quote(behind)}"
    if places.is_datastore(path):
        quoted = shlex.quote(os.path.normpath(path))
        return f"this is the datastore; name a VM in it, as {quoted}/VM: ioflt vm list {quoted}"
    return "name a VM as DIR/VM; DIR is the datastore"


_NO_SPACE = "make room, then run the command again"
_NO_HOME = "name a directory for state and sockets: export IOFLT_HOME=DIR"

# The first row whose class and pattern fit is taken: special rows stand before general ones.
_ADVICE: tuple[tuple[type[errors.IofltError], str, _Advice], ...] = (
    (
        errors.ProviderLocked,
        "waits for its (passphrase|PIN)|^the token of ",
        lambda error: f"ioflt keyd unlock {_provider(error)}",
    ),
    (errors.ProviderLocked, "", lambda _: "unlock the keys: ioflt keyd unlock"),
    (
        errors.KeyNotUsable,
        "key server of .*, key .*permission denied",
        lambda _: "have its policy allow `update` on the engine's encrypt/KEY and decrypt/KEY",
    ),
    (
        errors.KeyUnavailableError,
        "key server of .*(, key | has no engine )",
        lambda error: (
            f"have who runs the server look at that key, then: ioflt provider test {_provider(error)}"
        ),
    ),
    (
        errors.KeyUnavailableError,
        "^the token of .* key ",
        lambda error: (
            f"have who runs the token look at that key, then: ioflt provider test {_provider(error)}"
        ),
    ),
    (
        errors.KeyNotUsable,
        "^the token of .* PIN (is locked|has expired)|has no PIN yet",
        lambda error: f"have who runs the token set a PIN, then: ioflt keyd unlock {_provider(error)}",
    ),
    (errors.ProviderUnavailable, "package python-pkcs11", lambda _: "pip install 'ioflt[pkcs11]'"),
    (
        errors.KeyNotFound,
        "",
        lambda _: (
            "see which providers this machine knows: ioflt provider list;"
            " bring one back from its backup: ioflt provider restore FILE"
        ),
    ),
    (
        errors.ProviderUnavailable,
        "are not trusted yet",
        lambda error: f"ioflt provider trust {_provider(error)}",
    ),
    (
        errors.ProviderUnavailable,
        "no client certificate yet",
        lambda error: f"ioflt provider trust {_provider(error)} --certificate FILE",
    ),
    (
        errors.ProviderUnavailable,
        "does not show its certificate",
        lambda _: "give the certificate of who issued it: ioflt provider trust NAME --ca FILE",
    ),
    (errors.ProviderUnavailable, "did not pass", lambda _: "the lines above say which step failed, and why"),
    (
        errors.ProviderUnavailable,
        "is not known$",
        lambda error: f"look for a new key: ioflt key locate {_provider(error)}",
    ),
    (
        errors.ProviderUnavailable,
        "key server|^the token of |logs in",
        lambda error: f"try each step: ioflt provider test {_provider(error)}",
    ),
    (errors.ProviderUnavailable, "", lambda _: "see what the key daemon knows: ioflt keyd status"),
    (
        errors.KeyNotUsable,
        "until it was backed up",
        lambda error: f"keep its key elsewhere first: ioflt provider backup {_provider(error)} FILE",
    ),
    (
        errors.KeyNotUsable,
        "backup was changed",
        lambda _: "nothing was changed; try again, or another backup",
    ),
    (errors.KeyNotUsable, "wrong (passphrase|PIN)", lambda _: "nothing was changed; try again"),
    (errors.KeyCorrupt, "", lambda error: f"see what its servers hold: ioflt key locate {_provider(error)}"),
    (
        errors.KeyNotUsable,
        "removed from this host",
        lambda _: "see the keys of a datastore: ioflt key list DIR; take it back: ioflt key add ID",
    ),
    (errors.KeyNotUsable, "", lambda _: "see the providers and their keys: ioflt provider list"),
    (
        errors.UnsupportedError,
        "recrypt under way",
        lambda error: (
            f"nobody opens it until that is finished: ioflt vm recrypt --deep {_above(error, 'DIR/VM')}"
        ),
    ),
    (
        errors.UsageError,
        "has recovery slots",
        lambda _: (
            "say what becomes of them: --recovery-passphrase-file F (each such file gets one slot, for the"
            " passphrase in F), or --drop-recovery"
        ),
    ),
    (
        errors.IofltError,
        "deep recrypt was interrupted",
        lambda error: f"finish it: ioflt vm recrypt --deep {_file(error, 'DIR/VM')}",
    ),
    (
        errors.ReadOnlyError,
        "rolled back",
        lambda error: (
            "if an older state of it is what you want, say so:"
            f" ioflt vm register {_file(error, 'DIR/VM')} --accept-rollback"
        ),
    ),
    (errors.ReadOnlyError, "a raw copy", _copied),
    (
        errors.ReadOnlyError,
        "^cannot be moved away",
        lambda error: f"copy it instead: ioflt vm clone {_file(error, 'DIR/VM')} DST",
    ),
    (
        errors.AuthenticationError,
        "rolled back",
        lambda error: (
            "if an older state of it is what you want, say so:"
            f" ioflt datastore register {_file(error, 'DIR')} --accept-rollback"
        ),
    ),
    (
        errors.ReadOnlyError,
        r"\b(record|register)",
        lambda error: (
            "if you know where this home comes from, say so:"
            f" ioflt vm register {_file(error, 'DIR/VM')}  (add --clear for a clear one)"
        ),
    ),
    (errors.IofltError, r"the decryption of its disk .* was interrupted", _disk_decryption),
    (
        errors.UsageError,
        r"encryption (of its disk .* )?was interrupted, and comes first",
        lambda error: f"finish it: ioflt vm encrypt {_file(error, 'DIR/VM')}",
    ),
    (
        errors.IofltError,
        r"decryption was interrupted",
        lambda error: (
            "finish it, or go back:"
            f" ioflt vm decrypt {_file(error, 'DIR/VM')}, ioflt vm encrypt {_file(error, 'DIR/VM')}"
        ),
    ),
    (
        errors.UsageError,
        "is clear: there is nothing to erase",
        lambda error: f"remove it, and overwrite the storage if need be: rm -r {_file(error, 'DIR/VM')}",
    ),
    (
        errors.UsageError,
        "is not encrypted: without",
        lambda error: f"overwrite and remove it first: shred -u {_file(error, 'FILE')}",
    ),
    (
        errors.UsageError,
        "names outside of the VM",
        lambda error: f"remove the other names first: find {_above(error, 'DIR')} -links +1",
    ),
    (
        errors.UsageError,
        "recrypt was interrupted",
        lambda error: f"ioflt vm recrypt {_file(error, 'DIR/VM')}",
    ),
    (errors.CrossHomeError, "", lambda _: "copy instead: cp --sparse=always, then remove the source"),
    (errors.NotFoundError, "but the home of a VM", _home),
    (
        errors.NotFoundError,
        r"no datastore|not a datastore",
        _no_datastore,
    ),
    (errors.NotFoundError, "no such VM home", lambda error: f"ioflt vm list {_above(error, 'DIR')}"),
    (
        errors.ExistsError,
        "is a datastore already",
        lambda error: f"ioflt datastore show {_file(error, 'DIR')}",
    ),
    (
        errors.ExistsError,
        r"^(it exists|is there) already",
        lambda _: "nothing is overwritten; give another name",
    ),
    (errors.NotFoundError, "no provider .* is configured", lambda _: "ioflt provider list"),
    (errors.StorageError, os.strerror(errno.ENOSPC), lambda _: _NO_SPACE),
    (errors.UsageError, "cannot make the directory|has no home directory", lambda _: _NO_HOME),
    (
        errors.PeerError,
        "user_allow_other",
        lambda _: "leave --allow-other out, or have root write user_allow_other into /etc/fuse.conf",
    ),
    (
        errors.BusyError,
        "nobody knows whether keys",
        lambda error: (
            "show each where it is now: ioflt datastore show DIR; if they are gone for good:"
            f" ioflt provider remove --force {_provider(error)}"
        ),
    ),
    (
        errors.BusyError,
        "keys of the provider .* are in use",
        lambda error: (
            "see what needs them: ioflt vm list DIR; remove it all the same, with what it encrypted:"
            f" ioflt provider remove --force {_provider(error)}"
        ),
    ),
    (
        errors.BusyError,
        "the key .* is in use",
        lambda _: "to do without it all the same, and lock what it alone opens: ioflt key remove --force ID",
    ),
    (errors.BusyError, "mounted there already", lambda error: f"ioflt umount {_file(error, 'MOUNTPOINT')}"),
    (
        errors.BusyError,
        "files are open",
        lambda _: (
            "close them, or lock nevertheless: ioflt keyd lock --suspend (their I/O waits), --force (fails)"
        ),
    ),
    (
        errors.BusyError,
        "a shell stands in it",
        lambda error: f"see who it is, and end it: fuser -vm {_file(error, 'MOUNTPOINT')}",
    ),
    (
        errors.BusyError,
        "another command changes its keys|its keys are being changed|a command works on it",
        lambda _: "let that command end, then try again",
    ),
    (errors.BusyError, "", lambda _: "power the VM off and close its disks, then try again"),
    (
        errors.UsageError,
        "several providers and none is|the default for new keys, is not here",
        lambda _: "choose one of ioflt provider list: ioflt provider default NAME",
    ),
    (
        errors.UsageError,
        "too few shares|mixed shares|share number .* is given twice",
        lambda _: (
            "nothing was changed; name different files of one set: ioflt provider restore FILE FILE ..."
        ),
    ),
    (
        errors.UsageError,
        "last slot of the provider",
        lambda error: f"add another one first: ioflt provider slot add {_provider(error)} KIND",
    ),
    (
        errors.NotFoundError,
        "has no passphrase",
        lambda error: f"give it one: ioflt provider slot add {_provider(error)} passphrase",
    ),
    (
        errors.UsageError,
        "needs --url and --thumbprint",
        lambda _: "on the server, tang-show-keys prints the thumbprint",
    ),
    (
        errors.UsageError,
        "no recovery slots",
        lambda _: "write it out under a passphrase instead: ioflt vmx export DIR/VM",
    ),
    (
        errors.UsageError,
        "is a directory, not a stored file",
        lambda error: f"a VM: ioflt vm show {_file(error, 'DIR/VM')}, a datastore: ioflt datastore show DIR",
    ),
    (errors.NotFoundError, "mount point does not exist", lambda error: f"mkdir {_file(error, 'MOUNTPOINT')}"),
    (errors.AuthenticationError, "wrong passphrase", lambda _: "nothing was changed"),
    (
        errors.AuthenticationError,
        "another (container|home|key epoch)",
        lambda _: "nothing was changed; it is of something else, or from before a change of keys",
    ),
    (
        errors.MalformedError,
        "not a regular file|too large|no header backup|no key safe|no encryption data",
        lambda _: "nothing was changed",
    ),
    (
        errors.AuthenticationError,
        "unknown operation",
        lambda error: (
            "nothing was changed; if you know where this home comes from, say so:"
            f" ioflt vm register {_file(error, 'DIR/VM')}"
        ),
    ),
    (
        errors.AuthenticationError,
        "",
        lambda error: (
            "nothing was changed; it was altered, or belongs elsewhere:"
            f" ioflt inspect {_file(error, 'FILE')} shows what it claims to be"
        ),
    ),
    (
        errors.UnsupportedError,
        "",
        lambda error: f"nothing was changed; what the file asks for: ioflt inspect {_file(error, 'FILE')}",
    ),
    (
        errors.CorruptDataError,
        "header|bad magic|checksum|keyslot|token|state block",
        _header,
    ),
    (errors.CorruptDataError, "", lambda _: "nothing was changed"),
    (
        errors.PeerError,
        "nothing here seals keys",
        lambda _: "run keyd as root where systemd-creds works, or give this machine a TPM 2.0 and ioflt[tpm]",
    ),
    (errors.PeerError, r"keyd", lambda _: "start it again: ioflt keyd start"),
    (errors.BugError, "", lambda _: "please report this with the command and the text above"),
)


@contextmanager
def advising(kind: type[errors.IofltError], pattern: str, advice: str) -> Iterator[None]:
    """Give errors of the block, of this class and with `pattern` in the message, a hint of their own.

    For what the command knows and the error does not. Of two such hints the inner one is shown.
    """
    try:
        yield
    except kind as error:
        if re.search(pattern, error.message):
            error.add_note(advice)
        raise


def advising_key(key_id: str | None, directory: str | os.PathLike[str]) -> AbstractContextManager[None]:
    """Advice to who named a key of that id, for something in that datastore, where there is none of it."""
    if key_id is None:
        return nullcontext()
    return advising(
        errors.KeyNotFound,
        re.escape(key_id),
        f"see the keys in use: ioflt key list {shlex.quote(os.fspath(directory))};"
        " those on KMIP servers: ioflt key locate PROVIDER",
    )


def with_advice(warning: str) -> str:
    """A warning of keyd's, ended by the command that ends it, if there is one."""
    for pattern, command in (
        (r"the provider (\S+) was never backed up", "ioflt provider backup {} FILE"),
        (r"the client certificate of the provider (\S+) expire", "ioflt provider renew {} FILE"),
        (r"the trusted certificate .* of the provider (\S+) expire", "ioflt provider trust {}"),
        (
            r"the sealed keys of the provider (\S+) are of no use",
            "begin anew: ioflt provider cache {} --days N",
        ),
    ):
        name = re.match(pattern, warning)
        if name:
            return f"{warning}; {command.format(shlex.quote(name[1]))}"
    return warning


def hint_for(error: BaseException) -> str | None:
    """What the user can do about `error`, in one line; None when there is nothing useful to say."""
    if isinstance(error, errors.IofltError) and (advice_of_command := getattr(error, "__notes__", None)):
        return str(advice_of_command[0])
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{error.ctx.command_path} --help"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return _NO_SPACE
    for kind, pattern, advice in _ADVICE:
        if isinstance(error, kind) and re.search(pattern, error.message):
            return advice(error)
    return None
