"""The table of advice for errors, with a command ready to copy: which error gets which.

Its rows for keys that cannot be had are in `key_advice`, those for providers in `provider_advice`, those for
who may do what in `access_advice`, those for backups in `backup_advice`, those for virtual disks in
`disk_advice`.
"""

from __future__ import annotations

import errno
import os
import re
import shlex

from ioflt import errors
from ioflt.cli.access_advice import ACCESS
from ioflt.cli.backup_advice import BACKUPS
from ioflt.cli.disk_advice import DISKS
from ioflt.cli.key_advice import KEYS, Row, provider_of
from ioflt.cli.provider_advice import PROVIDERS


def _file(error: errors.IofltError, otherwise: str) -> str:
    return shlex.quote(error.file) if error.file else otherwise


def _above(error: errors.IofltError, otherwise: str) -> str:
    """The directory that holds what failed."""
    return shlex.quote(os.path.dirname((error.file or "").rstrip("/")) or otherwise)


def _copied(error: errors.IofltError) -> str:
    own = f"ioflt vm recrypt --deep {_file(error, 'DIR/VM')}"
    return f"remove one of the two, or give one keys of its own: {own}"


def _disk_decryption(error: errors.IofltError) -> str:
    vm = _file(error, "DIR/VM")
    disk = re.search(r"of its disk (.*) was interrupted", error.message)
    named = shlex.quote(disk[1]) if disk else "FILE"
    return f"finish it, or go back: ioflt vm decrypt {vm} --disk {named}, ioflt vm encrypt {vm}"


def _header(error: errors.IofltError) -> str:
    from ioflt.cli import places

    if (error.file or "").lower().endswith(".vmx"):  # the one file of an encrypted VM that is no container
        return "nothing was changed"
    if error.file and os.path.lexists(error.file) and places.datastore_above(error.file) is None:
        return "nothing was changed; it lies in no datastore: name a file of an encrypted VM, as DIR/VM/FILE"
    return "nothing was changed; a header backup may help: ioflt header restore BACKUP DIR/VM"


def _home(error: errors.IofltError) -> str:
    from ioflt.cli import places

    above = places.datastore_above(error.file or "")
    return (
        "name a datastore; this VM lies in none"
        if above is None
        else f"name its datastore: {shlex.quote(above)}"
    )


def _slots(error: errors.IofltError) -> str:
    if error.file and os.path.isdir(error.file):
        return "see the slots of each of its files: ioflt inspect FILE"
    return f"see its slots: ioflt inspect {_file(error, 'FILE')}"


def _changed(error: errors.IofltError) -> str:
    from ioflt.cli import places

    vm, real = "DIR/VM", os.path.realpath(error.file or "/")
    above = places.datastore_above(real)
    if above is not None:
        vm = shlex.quote(os.path.join(above, os.path.relpath(real, above).partition("/")[0]))
    return (
        "changed or put back by somebody, or written by a program that had a recovery passphrase;"
        f" `ioflt check --data {vm}` names all of it; restore that file from a backup, or write those sectors"
        " anew through the mount"
    )


def _namespace(error: errors.IofltError) -> str:
    holder = re.search(r"of process ([0-9]+)", error.message)
    return (
        "end that process (a container, a service with PrivateMounts=), and all others that"
        " `grep -l fuse.ioflt /proc/[0-9]*/mountinfo` names, or:"
        f" nsenter -t {holder[1] if holder else 'PID'} -m umount {_file(error, 'MOUNTPOINT')}"
    )


def _log(name: str) -> str:
    from ioflt import paths

    return f"its log: {shlex.quote(str(paths.find().logs / name))}"


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
    if os.path.lexists(error.file) and not os.path.isdir(error.file):
        return "this is a file; name the datastore, a directory"
    return f"make it one: ioflt datastore init {shlex.quote(error.file)}"


NO_SPACE = "make room, then run the command again"
_NO_HOME = "name a directory for state and sockets: export IOFLT_HOME=DIR"

# The first row whose class and pattern fit is taken: special rows stand before general ones.
ADVICE: tuple[Row, ...] = (
    *KEYS,
    (
        errors.UnsupportedError,
        "recrypt under way",
        lambda error: (
            f"nobody opens it until that is finished: ioflt vm recrypt --deep {_above(error, 'DIR/VM')}"
        ),
    ),
    (
        errors.NotFoundError,
        "^no policy ",
        lambda _: "see the policies that are here: ioflt policy list",
    ),
    (
        errors.UsageError,
        "^marked as the VM that the keys come from",
        lambda error: (
            "if the keys come from elsewhere, too: --force; if it was marked by mistake:"
            f" ioflt vm mark {_file(error, 'DIR/VM')} --no-keys"
        ),
    ),
    (
        errors.UsageError,
        "^(RDM|multi-writer):",
        lambda _: "copy it to a disk that is this VM's alone, and attach that one",
    ),
    (
        errors.UsageError,
        "^encrypted disk in a clear VM",
        lambda _: "where it is from, decrypt it or clone its whole VM; here, remove it",
    ),
    (
        errors.UsageError,
        "^has files at its top",
        lambda _: "move them away, or into a VM, and give it its policy then",
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
        "^another datastore",
        lambda error: (
            "if that one is what you want there, say so:"
            f" ioflt datastore register {_file(error, 'DIR')} --accept-rollback"
        ),
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
    (
        errors.IofltError,
        "(move|rename) was interrupted",
        lambda error: (
            f"the next command on its datastore goes on with it: ioflt vm list {_above(error, 'DIR')}"
        ),
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
    *BACKUPS,
    *DISKS,
    *PROVIDERS,
    (errors.StorageError, os.strerror(errno.ENOSPC), lambda _: NO_SPACE),
    (
        errors.StorageError,
        f"^cannot (write|make).*{os.strerror(errno.ENOENT)}",
        lambda error: f"make its directory first: mkdir -p {_above(error, 'DIR')}",
    ),
    (
        errors.StorageError,
        f"{os.strerror(errno.EACCES)}|{os.strerror(errno.EPERM)}",
        lambda error: f"see whose it is: ls -ld {_file(error, 'FILE')}",
    ),
    (
        errors.DeniedError,
        "may not use this socket|may not ask this of keyd|served by another user",
        lambda _: (
            "as root, or as a member of the group ioflt, you use the machine's keys; for keys of your own:"
            " export IOFLT_HOME=DIR"
        ),
    ),
    *ACCESS,
    (
        errors.PeerError,
        "keyd is of another version",
        lambda _: (
            "end the old one, and this command starts another: ioflt keyd stop; mounts that it served go on"
            " once they are made again"
        ),
    ),
    (
        errors.PeerError,
        "only root starts it",
        lambda _: "systemctl enable --now ioflt-keyd.socket, or sudo ioflt keyd start",
    ),
    (
        errors.UsageError,
        "not a name for a VM",
        lambda _: "give a name without slashes, backslashes, quotes and control characters",
    ),
    (
        errors.UsageError,
        "no datastore is made inside",
        lambda _: "put VMs into the one that is there (ioflt vm import), or name a directory elsewhere",
    ),
    (
        errors.UsageError,
        "has a valid record|was not rolled back",
        lambda _: "there is nothing to vouch for, and nothing was changed",
    ),
    (errors.UsageError, "mounted over itself", lambda _: "name an empty directory elsewhere, as /mnt/ds"),
    (errors.NotFoundError, "no ioflt mount here", lambda _: "see what is mounted: findmnt -t fuse.ioflt"),
    (errors.NotFoundError, "no slot that this passphrase opens|no such slot", _slots),
    (errors.PeerError, "^the mount's process does not end: the mount namespace", _namespace),
    (
        errors.PeerError,
        "see mount.log|its log says why",
        lambda _: _log("mount.log"),
    ),
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
            f" ioflt provider remove --force {provider_of(error)}"
        ),
    ),
    (
        errors.BusyError,
        "keys of the provider .* are in use",
        lambda error: (
            "see what needs them: ioflt vm list DIR; remove it all the same, with what it encrypted:"
            f" ioflt provider remove --force {provider_of(error)}"
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
    (errors.BusyError, "the mount is locked", lambda _: "unlock the keys: ioflt keyd unlock"),
    (errors.BusyError, "", lambda _: "power the VM off and close its disks, then try again"),
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
        errors.IntegrityError,
        "changed data",
        _changed,
    ),
    (
        errors.IntegrityError,
        "no tags|tags not of this container",
        lambda _: (
            "put the VM's directory back as it was, with .ioflt.d, or this file from a backup of the mount"
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
    (errors.PeerError, "^keyd failed", lambda _: _log("keyd.log")),
    (errors.PeerError, r"keyd", lambda _: "start it again: ioflt keyd start"),
    (errors.BugError, "", lambda _: "please report this with the command and the text above"),
)
