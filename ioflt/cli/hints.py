"""Advice for errors, as hints. Libraries state facts; only this file, `advice` and
`key_advice` know commands.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import click

from ioflt import errors
from ioflt.cli.advice import ADVICE, NO_SPACE


def for_no_vm(directory: str | os.PathLike[str], name: str) -> str:
    """Advice to who named `directory/name` for a VM, where `directory` is no datastore."""
    from ioflt.cli import places

    path = os.path.join(directory, name)
    above = places.datastore_above(directory)
    if above is not None and os.path.isdir(directory):
        vm = os.path.relpath(os.path.realpath(directory), above).partition("/")[0]
        return f"it lies in a VM; name that: {shlex.quote(os.path.join(above, vm))}"
    behind = places.behind_mount(path)
    if behind is not None:
        return f"this is in a mount; name what it shows: {shlex.quote(behind)}"
    if places.is_datastore(path):
        quoted = shlex.quote(os.path.normpath(path))
        return f"this is the datastore; name a VM in it, as {quoted}/VM: ioflt vm list {quoted}"
    return "name a VM as DIR/VM; DIR is the datastore"


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
        return NO_SPACE
    for kind, pattern, advice in ADVICE:
        if isinstance(error, kind) and re.search(pattern, error.message):
            return advice(error)
    return None
