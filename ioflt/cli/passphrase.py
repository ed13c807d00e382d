"""Where a passphrase comes from: the terminal, a file, or standard input. Never an argument or a variable."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from typing import TypeVar

import click

from ioflt.cli.render import warn
from ioflt.crypto.secret import Secret
from ioflt.errors import UsageError

#: The longest passphrase taken, in bytes: what a message to keyd holds.
MAX_PASSPHRASE = 4096

#: Names the file of a provider's own passphrase.
OWN_OPTION = "--provider-passphrase-file"

_Command = TypeVar("_Command", bound=Callable[..., object])


def passphrase_option(command: _Command) -> _Command:
    """Add `--passphrase-file F` (parameter `passphrase_file`)."""
    return click.option(
        "--passphrase-file",
        metavar="F",
        help="Read the passphrase from F (- is standard input) instead of asking; a last newline is dropped.",
    )(command)


def own_passphrase_option(command: _Command) -> _Command:
    """Add `--provider-passphrase-file F` (parameter `provider_passphrase_file`)."""
    return click.option(
        OWN_OPTION,
        metavar="F",
        help="Read the provider's own passphrase from F, where it has one.",
    )(command)


def ask(file: str | None, prompt: str, confirm: bool = False, option: str = "--passphrase-file") -> Secret:
    """The passphrase from `file`, which `option` names, or typed at the terminal (twice with `confirm`).

    Raises UsageError when it is empty, too long, typed differently, or there is no terminal; OSError.
    """
    secret = _typed(prompt, confirm, option) if file is None else _read(file)
    if not 0 < len(secret) <= MAX_PASSPHRASE:
        length = len(secret)
        secret.wipe()
        raise UsageError(
            f"the passphrase is longer than {MAX_PASSPHRASE} bytes" if length else "the passphrase is empty",
            file=file,
        )
    return secret


def _read(file: str) -> Secret:
    if file == "-":
        return _from_descriptor(sys.stdin.fileno())
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
            warn(f"{file}: others can read this passphrase; chmod 600 it")
        return _from_descriptor(descriptor)
    except OSError as error:
        error.filename = file
        raise
    finally:
        os.close(descriptor)


def _from_descriptor(descriptor: int) -> Secret:
    limit = MAX_PASSPHRASE + 2  # the newline, and one more that shows that it is too long
    buffer = bytearray(limit)
    length = 0
    try:
        while length < limit and (count := os.readv(descriptor, [memoryview(buffer)[length:]])):
            length += count
        if length and buffer[length - 1 : length] == b"\n":
            length -= 1
        return Secret(memoryview(buffer)[:length])
    finally:
        buffer[:] = bytes(limit)


def _typed(prompt: str, confirm: bool, option: str) -> Secret:
    import getpass

    if not sys.stdin.isatty():
        raise UsageError(f"a passphrase is needed and there is no terminal; name a file by {option}")
    secret = Secret(os.fsencode(getpass.getpass(f"{prompt}: ")))
    if confirm and secret != Secret(os.fsencode(getpass.getpass(f"{prompt} again: "))):
        raise UsageError("the two passphrases differ")
    return secret
