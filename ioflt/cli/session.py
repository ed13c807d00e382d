"""What commands share: the connection to keyd with its warnings, and the two ways to name things."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import click

from ioflt.cli.hints import for_no_vm, hint_for, with_advice
from ioflt.cli.render import warn
from ioflt.errors import CorruptDataError, IofltError, NotFoundError, StorageError, UsageError

if TYPE_CHECKING:
    from ioflt.audit.reader import LogFile
    from ioflt.datastore.volume import Volume
    from ioflt.errors import KeyUnavailableError
    from ioflt.format.record.record import DatastoreRecord
    from ioflt.keys.client import KeyClient
    from ioflt.paths import Paths

_Command = TypeVar("_Command", bound=Callable[..., object])


@contextmanager
def connect_keys() -> Iterator[KeyClient]:
    """A client of keyd, which is started when it is not running; its warnings are shown at the end.

    Also when the block fails: then nothing that goes wrong with the warnings hides why.
    """
    from ioflt.keys.client import KeyClient

    with KeyClient.connect(operation=operation()) as keys:
        try:
            yield keys
        except Exception:  # said after a failure, too, which goes on
            with suppress(IofltError, OSError):
                _show_warnings(keys)
            raise
        _show_warnings(keys)


@contextmanager
def event_files(folder: str | None = None) -> Iterator[Iterator[LogFile]]:
    """The files of the event log, or of a folder's: read by the owner of keyd's state, given out by keyd to
    others.

    Reading raises DeniedError, StorageError. Raises UsageError for no name of a folder, NotFoundError.
    """
    from ioflt import paths
    from ioflt.audit import reader

    where = paths.find()
    if not where.joined:
        yield reader.on_disk(events_directory(where, folder))
        return
    with connect_keys() as keys:
        yield keys.event_files(folder)


def events_directory(where: Paths, folder: str | None) -> Path:
    """Where the event log lies, or that of a folder. Raises UsageError for no name of one, NotFoundError."""
    from ioflt.access import objects
    from ioflt.audit import reader

    return where.events if folder is None else reader.of_folder(where, objects.folder(folder).id)


def operation() -> str:
    """What the command that runs is called in the table of operations: its words, and an option if it has an
    entry of its own there.
    """
    from ioflt.access.operations import OPERATIONS

    context = click.get_current_context(silent=True)
    if context is None:
        return ""
    name = " ".join(context.command_path.split(" ")[1:])
    given = [param for param in context.command.params if param.name and context.params.get(param.name)]
    options = [f"{name}: {option}" for param in given for option in param.opts]
    return next((option for option in options if option in OPERATIONS), name)


def _show_warnings(keys: KeyClient) -> None:
    warn_once(keys.warnings())


def remind() -> None:
    """Name the providers that were never backed up, unless the command has done so; keyd is not asked.

    Nothing is made where there is no state yet, and nothing that goes wrong here fails the command.
    """
    from ioflt import paths
    from ioflt.keys.native.store import NativeStore

    with suppress(IofltError, OSError):
        warn_once(NativeStore(paths.find().providers).reminders())


def warn_once(warnings: list[str]) -> None:
    """Show each warning once in a command, however often it asks keyd."""
    context = click.get_current_context(silent=True)
    shown: set[str] = set() if context is None else context.meta.setdefault("ioflt.warned", set())
    for warning in warnings:
        if warning not in shown:
            shown.add(warning)
            warn(with_advice(warning))


@contextmanager
def open_volume(path: Path, *, read_only: bool = False, keyless: bool = False) -> Iterator[Volume]:
    """The datastore at `path`, with keys. `keyless`: also without its own, with a warning."""
    from ioflt.cli.reporting import finds_told
    from ioflt.datastore.volume import Volume

    locked = warning_of_record(path) if keyless else None
    with (
        connect_keys() as keys,
        finds_told(keys, path),
        Volume.open(path, keys, read_only=read_only, locked=locked) as volume,
    ):
        yield volume


def warn_unknown_policy(volume: Volume, path: Path, name: str | None) -> None:
    """Say that this machine does not know the policy that a record names, or cannot know."""
    from ioflt.datastore import policies

    try:
        known = not name or policies.named(volume.keys, name) is not None
    except (CorruptDataError, StorageError) as error:  # the host's own policies cannot be read
        warn(str(error))
        return
    if not known:
        warn(f"{path}: its policy {name} is not known on this machine")


def warn_unknown_provider(keys: KeyClient, name: str | None) -> None:
    """Say that this machine has no provider of a name by which keys will be made."""
    if name is not None and all(provider.name != name for provider in keys.status().providers):
        warn(f"this machine has no key provider {name}")


def warning_of_record(path: Path) -> Callable[[DatastoreRecord, KeyUnavailableError], None]:
    """As `warning_of_keys`, for who has the record."""
    say_it = warning_of_keys(path)
    return lambda record, why: say_it([str(key) for key in record.keys], why)


def warning_of_keys(path: Path) -> Callable[[Sequence[str], IofltError], None]:
    """Says that the own keys of the datastore at `path` cannot be had: which, why, and what to do."""

    def say_it(keys: Sequence[str], why: IofltError) -> None:
        told = (
            f"{path}: its own key {' or '.join(keys)} cannot be had, so its record is not verified:"
            f" {why.message}; until it can, clear VMs and files at the top are locked, and no VM is made"
        )
        hint = hint_for(why)
        warn(told if hint is None else f"{told}; {hint}")

    return say_it


@contextmanager
def logged() -> Iterator[None]:
    """What the block does to homes is written to the log of the mounts as well; warnings are shown, too."""
    import logging

    from ioflt import paths
    from ioflt.fuse.log import LogFile

    log = logging.getLogger("ioflt.datastore")
    handler = LogFile(paths.find().ensure().logs / "mount.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
        handler.close()


def home_argument(command: _Command) -> _Command:
    """Add the argument `DIR/VM` (parameter `home`: the datastore and the name). The home need not exist."""
    return vm_argument("home", "DIR/VM")(command)


def vm_argument(parameter: str, metavar: str) -> Callable[[_Command], _Command]:
    """The same under other names, for a command that takes two."""

    def add(command: _Command) -> _Command:
        @functools.wraps(command)
        def advised(*args: object, **kwargs: object) -> object:
            try:
                return command(*args, **kwargs)
            except NotFoundError as error:
                directory, name = cast("tuple[Path, str]", kwargs[parameter])
                named = os.path.abspath(error.file or "/") == os.path.abspath(directory)
                if named and "no datastore here" in error.message:
                    error.add_note(for_no_vm(directory, name))
                raise

        path = click.Path(readable=False)
        argument = click.argument(parameter, metavar=metavar, type=path, callback=_split)
        return cast("_Command", argument(advised))

    return add


def directory_argument(command: _Command) -> _Command:
    """Add the argument `DIR` (parameter `directory`), which exists."""
    return _existing("directory", "DIR")(command)


def file_argument(command: _Command) -> _Command:
    """Add the argument `FILE` (parameter `file`), which exists."""
    return _existing("file", "FILE")(command)


def _split(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[Path, str]:
    directory, name = os.path.split(value.rstrip("/"))
    if name in ("", ".", ".."):
        raise UsageError("names no VM: write the datastore's directory, a slash, the VM's name", file=value)
    return Path(directory or "."), name


def _existing(name: str, metavar: str) -> Callable[[_Command], _Command]:
    def check(_ctx: click.Context, _param: click.Parameter, value: Path) -> Path:
        value.lstat()
        return value

    return click.argument(
        name, metavar=metavar, type=click.Path(readable=False, path_type=Path), callback=check
    )
