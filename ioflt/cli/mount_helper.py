"""`mount.ioflt`: what mount(8), /etc/fstab and systemd call for the file system type `ioflt`.

    mount.ioflt SOURCE TARGET [-sfnv] [-o OPTION,…]

Understood: ro, rw, allow_other, as=USER, exec, noexec. The words that mount(8) keeps for itself or that mean
nothing here (defaults, auto, noauto, nofail, user, _netdev, x-…, comment=…, dev, suid, atime and their
opposites) are taken silently: a mount is always nodev and nosuid. Anything else is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ioflt.cli import failures, streams
from ioflt.errors import UsageError

_IGNORED = frozenset(
    (
        "defaults",
        "auto",
        "noauto",
        "nofail",
        "user",
        "users",
        "nouser",
        "owner",
        "group",
        "_netdev",
        "dev",
        "nodev",
        "suid",
        "nosuid",
        "async",
        "sync",
        "dirsync",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "norelatime",
        "strictatime",
        "lazytime",
        "nolazytime",
    )
)
_USAGE = "usage: mount.ioflt SOURCE TARGET [-sfnv] [-o OPTIONS]"
_IGNORED_PREFIXES = ("x-", "X-", "comment=", "user=")


def main(arguments: Sequence[str] | None = None) -> int:
    """Mount; the exit code is that of `ioflt mount`."""
    streams.fill_closed()
    try:
        return _mount(sys.argv[1:] if arguments is None else arguments)
    except Exception as error:
        return failures.report(error, as_json=False)


def _mount(arguments: Sequence[str]) -> int:
    from ioflt.cli.mount import naming_missing, parse_visitor, warn_of_others
    from ioflt.cli.session import connect_keys, warning_of_keys
    from ioflt.fuse import starter

    if set(arguments) & {"-h", "--help"}:
        print(
            f"{_USAGE}\n\nWhat `mount -t ioflt` calls. Options: ro, rw, allow_other, as=USER, exec, noexec."
        )
        return 0
    names, words, fake = _parse(arguments)
    if len(names) != 2:
        raise UsageError(_USAGE)
    read_only = allow_other = no_exec = False
    visitor = None
    for word in words:
        if word in ("ro", "rw"):
            read_only = word == "ro"
        elif word in ("exec", "noexec"):
            no_exec = word == "noexec"
        elif word == "allow_other":
            allow_other = True
        elif word.startswith("as="):
            visitor = parse_visitor(word.removeprefix("as="))
        elif word == "remount":
            raise UsageError("a mount is not changed while it is mounted; umount it, and mount it again")
        elif word not in _IGNORED and not word.startswith(_IGNORED_PREFIXES):
            raise UsageError(f"unknown mount option {word.partition('=')[0]}")
    if fake:
        return 0
    warn_of_others(visitor, allow_other=allow_other)
    with connect_keys():  # warnings, and a clear word if keyd cannot be had
        pass
    source, target = Path(names[0]), Path(names[1])
    with naming_missing(target):
        return starter.start(
            source,
            target,
            read_only=read_only,
            allow_other=allow_other,
            no_exec=no_exec,
            principal=visitor,
            lacking=warning_of_keys(source),
        )


def _parse(arguments: Sequence[str]) -> tuple[list[str], list[str], bool]:
    """Names, options of all -o, and whether -f (fake) was given."""
    names: list[str] = []
    words: list[str] = []
    fake = False
    rest = iter(arguments)
    for argument in rest:
        if argument == "-o":
            words += next(rest, "").split(",")
        elif argument == "-t":
            next(rest, None)
        elif argument.startswith("-o"):
            words += argument[2:].split(",")
        elif argument.startswith("-") and len(argument) > 1 and set(argument[1:]) <= set("sfnvrw"):
            fake = fake or "f" in argument
            words += ["ro"] if "r" in argument else []
        elif argument.startswith("-"):
            raise UsageError(f"unknown option {argument}")
        else:
            names.append(argument)
    return names, [word for word in words if word], fake
