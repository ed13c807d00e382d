"""Advice for errors, with a command ready to copy. Libraries state facts; only this file knows commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

import click

from ioflt import errors

_Advice = Callable[[errors.IofltError], str]


def _file(error: errors.IofltError, otherwise: str) -> str:
    return shlex.quote(error.file) if error.file else otherwise


# The first row whose class and pattern fit is taken: special rows stand before general ones.
_ADVICE: tuple[tuple[type[errors.IofltError], str, _Advice], ...] = (
    (errors.ProviderLocked, "", lambda _: "unlock the keys: ioflt keyd unlock"),
    (
        errors.KeyNotFound,
        "",
        lambda _: (
            "see which providers this machine knows: ioflt provider list;"
            " bring one back from its backup: ioflt provider restore FILE"
        ),
    ),
    (errors.ProviderUnavailable, "", lambda _: "see what the key daemon knows: ioflt keyd status"),
    (errors.KeyNotUsable, "", lambda _: "see the providers and their keys: ioflt provider list"),
    (
        errors.ReadOnlyError,
        r"\b(record|register)",
        lambda error: (
            "if you know where this home comes from, say so:"
            f" ioflt vm register {_file(error, 'DIR/VM')}  (add --clear for a clear one)"
        ),
    ),
    (
        errors.ReadOnlyError,
        r"decrypt",
        lambda error: (
            "finish it, or go back:"
            f" ioflt vm decrypt {_file(error, 'DIR/VM')}, ioflt vm encrypt {_file(error, 'DIR/VM')}"
        ),
    ),
    (errors.CrossHomeError, "", lambda _: "copy instead: cp --sparse=always, then remove the source"),
    (
        errors.NotFoundError,
        r"no datastore|not a datastore",
        lambda error: f"make it one: ioflt datastore init {_file(error, 'DIR')}",
    ),
    (errors.BusyError, "", lambda _: "power the VM off and close its disks, then try again"),
    (
        errors.UsageError,
        "no recovery slots",
        lambda _: "write it out under a passphrase instead: ioflt vmx export DIR/VM",
    ),
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
        "",
        lambda _: "nothing was changed; a header backup may help: ioflt header restore BACKUP DIR/VM",
    ),
    (errors.PeerError, r"keyd", lambda _: "start it again: ioflt keyd start"),
    (errors.BugError, "", lambda _: "please report this with the command and the text above"),
)


def hint_for(error: BaseException) -> str | None:
    """What the user can do about `error`, in one line; None when there is nothing useful to say."""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{error.ctx.command_path} --help"
    for kind, pattern, advice in _ADVICE:
        if isinstance(error, kind) and re.search(pattern, error.message):
            return advice(error)
    return None
