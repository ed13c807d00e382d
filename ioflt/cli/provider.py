"""`ioflt provider`: where keys come from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ioflt.cli import kmip, pkcs11, provider_trial, reporting, transit
from ioflt.cli.hints import advising
from ioflt.cli.passphrase import ask, own_passphrase_option, passphrase_option
from ioflt.cli.provider_cache import cache
from ioflt.cli.provider_common import (
    from_now_on,
    open_providers,
    open_store,
    opened_by,
    own_passphrase,
    slots_of,
    tell_keyd,
)
from ioflt.cli.provider_slot import slot
from ioflt.cli.render import emit, json_option, say, warn
from ioflt.errors import CorruptDataError, ExistsError, UsageError

if TYPE_CHECKING:
    from ioflt.crypto.secret import Secret
    from ioflt.keys.native.file import ProviderFile
    from ioflt.wire.keyd.providers import About


@click.group()
def provider() -> None:
    """Key providers: where keys come from."""


provider.add_command(slot)
provider.add_command(cache)


@provider.group()
def create() -> None:
    """Make a key provider."""


@create.command(short_help="Make a provider that this machine keeps.")
@click.argument("name")
@click.option("--ask-passphrase", "prompt", is_flag=True, help="Ask for the passphrase at the terminal.")
@passphrase_option
@json_option
def native(name: str, prompt: bool, passphrase_file: str | None, as_json: bool) -> None:
    """Make the provider NAME, whose keys are derived from one that this machine keeps.

    Without a passphrase it is sealed to this machine and opens by itself. With one it opens by
    `ioflt keyd unlock NAME` only.
    """
    with contextlib.ExitStack() as stack:
        secret: Secret | None = None
        if prompt or passphrase_file is not None:
            asked = ask(passphrase_file, f"Passphrase of the provider {name}", confirm=True)
            secret = stack.enter_context(asked)
        providers = stack.enter_context(open_providers())
        stack.enter_context(reporting.by_files(name, ("provider.kind", None, "native")))
        made = providers.create_native(name, secret)
    tell_keyd()
    opens = f"; it opens by: ioflt keyd unlock {name}" if secret is not None else ""
    done = {"provider": name, "kind": "native", "slots": slots_of(made)}
    emit(done, lambda: say(f"made the provider {name}{opens}"), as_json)


create.add_command(kmip.kmip)
create.add_command(transit.transit)
create.add_command(pkcs11.pkcs11)
provider.add_command(kmip.trust)
provider.add_command(kmip.renew)
provider.add_command(provider_trial.test)


@provider.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List the key providers."""
    from ioflt.cli.keyd import show_providers
    from ioflt.keys.client import KeyClient

    with KeyClient.connect() as keys:
        now = keys.status()

    def text() -> None:
        if now.providers:
            show_providers(now)
        else:
            say("no key provider yet; `local` is made when a key is first needed")

    emit(now.providers, text, as_json)


@provider.command(short_help="Write its key to a file, under a passphrase.")
@click.argument("name")
@click.argument("out", type=click.Path(readable=False, path_type=Path))
@passphrase_option
@own_passphrase_option
@json_option
def backup(
    name: str, out: Path, passphrase_file: str | None, provider_passphrase_file: str | None, as_json: bool
) -> None:
    """Write the key of the native provider NAME to the new file OUT, protected by a passphrase for it.

    Who has OUT and its passphrase can read everything that NAME encrypted. Keep it off this machine.
    """
    from ioflt.keys import files

    with contextlib.ExitStack() as stack:
        providers = stack.enter_context(open_providers())
        about = providers.about(name)
        _refuse_foreign(about)
        if os.path.lexists(out):  # before anything is asked
            raise ExistsError("it exists already", file=out)
        own = own_passphrase(stack, about, provider_passphrase_file)
        new = stack.enter_context(ask(passphrase_file, "Passphrase for the backup", confirm=True))
        stack.enter_context(reporting.by_files(name, ("backup", None, os.path.abspath(out))))
        files.create(out, providers.backup(about, new, own))
        providers.mark_backed_up(name)
    tell_keyd()
    done = {"provider": name, "out": str(out)}
    emit(done, lambda: say(f"{out}: backup of the provider {name}; test it and keep it elsewhere"), as_json)


def _refuse_foreign(about: About) -> None:
    """Raises UsageError for a provider whose key is not here to be kept."""
    name = about.name
    match about.kind:
        case "kmip":
            raise UsageError(f"the keys of the provider {name} are on its servers; they are backed up there")
        case "transit":
            raise UsageError(
                f"what opens the keys of the provider {name} is on its server; it is backed up there"
            )
        case "pkcs11":
            raise UsageError(
                f"what opens the keys of the provider {name} is in its token;"
                " it is backed up as the token's vendor says"
            )


@provider.command(short_help="Bring a provider back from its backup.")
@click.argument(
    "paths", metavar="FILE...", nargs=-1, required=True, type=click.Path(readable=False, path_type=Path)
)
@passphrase_option
@json_option
def restore(paths: tuple[Path, ...], passphrase_file: str | None, as_json: bool) -> None:
    """Bring back a provider from a FILE of `ioflt provider backup`, or from enough FILEs of `split`.

    The passphrase is that of the backup. With shares it is a new one, for a provider that had one.
    """
    from ioflt.format.share import text
    from ioflt.keys import files
    from ioflt.keys.native.backup import MAX_SIZE

    read = [(path, files.read(path, MAX_SIZE)) for path in paths]
    advice = "nothing was changed; give a file that `ioflt provider backup` or `split` wrote"
    given = ("restore", None, ", ".join(map(os.path.abspath, paths)))
    with advising(CorruptDataError, "", advice), reporting.told(reporting.About(None), given):
        if any(text.is_share(data) for _, data in read):
            restored = _restore_shares(read, passphrase_file)
        elif len(read) > 1:
            raise UsageError("several files, and none of them is a share: name one backup")
        else:
            restored = _restore_backup(*read[0], passphrase_file)
    tell_keyd()
    done = {"provider": restored.name, "kind": "native", "slots": opened_by(restored)}
    emit(done, lambda: say(f"the provider {restored.name} is here"), as_json)


def _restore_backup(path: Path, data: bytes, passphrase_file: str | None) -> ProviderFile:
    with ask(passphrase_file, "Passphrase of the backup") as passphrase, _naming(path):
        return open_store().restore(data, passphrase)


def _restore_shares(read: list[tuple[Path, bytes]], passphrase_file: str | None) -> ProviderFile:
    from ioflt.format.share import text
    from ioflt.keys.native import shares

    given = []
    advice = "nothing was changed; compare that line with the sheet"
    for path, data in read:
        with _naming(path), advising(CorruptDataError, "line|bad field", advice):
            given.append(text.parse(data))
    with advising(CorruptDataError, "wrong share", "nothing was changed; try other shares of the same set"):
        identity, kdk = shares.combine(given)
    with contextlib.ExitStack() as stack:
        stack.enter_context(kdk)
        secret: Secret | None = None
        if identity.protection == "passphrase":
            prompt = f"New passphrase of the provider {identity.name}"
            secret = stack.enter_context(ask(passphrase_file, prompt, confirm=True))
        return open_store().install(identity, kdk, secret)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors about the content of a file name it."""
    try:
        yield
    except CorruptDataError as error:
        error.file = error.file or str(path)
        raise


@provider.command(short_help="Write its key to several files, some of which bring it back.")
@click.argument("name")
@click.option("--shares", "count", metavar="N", type=int, required=True, help="How many files to write.")
@click.option("--threshold", metavar="K", type=int, required=True, help="How many of them are needed.")
@click.argument(
    "directory", metavar="OUTDIR", type=click.Path(readable=False, path_type=Path, file_okay=False)
)
@own_passphrase_option
@json_option
def split(
    name: str,
    count: int,
    threshold: int,
    directory: Path,
    provider_passphrase_file: str | None,
    as_json: bool,
) -> None:
    """Write the key of the native provider NAME to N text files in OUTDIR, any K of which bring it back.

    They are made to be printed, and to be typed in again. Fewer than K say nothing of the key; K need no
    passphrase. Give them to different people, and delete the files.
    """
    from ioflt.format.share import text
    from ioflt.keys import files, provider_facts
    from ioflt.keys.native import shares
    from ioflt.keys.native.backup import Identity

    store = open_store()
    written = []
    with contextlib.ExitStack() as stack:
        file = store.load(name)
        own = own_passphrase(stack, provider_facts.about(store, name), provider_passphrase_file)
        kdk = stack.enter_context(store.open(file, own))
        given = ("shares", None, f"{threshold} of {count} in {os.path.abspath(directory)}")
        stack.enter_context(reporting.told(reporting.provider(name), given))
        made = shares.split(Identity.of(file), kdk, threshold, count)
        directory.mkdir(mode=0o700, exist_ok=True)
        for share in made:
            stack.enter_context(share.data)
            path = directory / f"{name}-share-{share.index}-of-{count}.txt"
            files.create(path, text.write(share))
            written.append(str(path))
    store.mark_backed_up(name)
    tell_keyd()

    def told() -> None:
        for index, path in enumerate(written, 1):
            say(f"{path}: share {index}")
        say(f"any {threshold} of the {count} bring the provider {name} back; print them, and keep them apart")

    emit({"provider": name, "threshold": threshold, "shares": written}, told, as_json)


@provider.command(short_help="Change a provider's passphrase.")
@click.argument("name")
@passphrase_option
@own_passphrase_option
@json_option
def passwd(
    name: str, passphrase_file: str | None, provider_passphrase_file: str | None, as_json: bool
) -> None:
    """Change the passphrase of the native provider NAME. The old one opens it no more.

    A backup of it keeps the passphrase that it was written under.
    """
    with contextlib.ExitStack() as stack:
        providers = stack.enter_context(open_providers())
        about = providers.about(name)
        own = own_passphrase(stack, about, provider_passphrase_file)
        new = stack.enter_context(
            ask(passphrase_file, f"New passphrase of the provider {name}", confirm=True)
        )
        stack.enter_context(reporting.by_files(name))
        providers.change_passphrase(about, new, own)
        changed = providers.about(name)
    tell_keyd()
    done = {"provider": name, "kind": "native", "slots": slots_of(changed)}
    emit(done, lambda: say(f"the provider {name} has a new passphrase"), as_json)


@provider.command(short_help="Show or choose the provider of new keys.")
@click.argument("name", required=False)
@json_option
def default(name: str | None, as_json: bool) -> None:
    """Make NAME the provider of new keys; without NAME, show which one that is.

    Where none was chosen it is the only one, else `local`, which is made at first use.
    """
    with open_providers() as providers:
        chosen = providers.chosen()
        if name is not None:
            with reporting.by_files(name, ("provider.default", chosen, name)):
                providers.choose(name, chosen)
            chosen = name
        now = providers.default()
    emit({"provider": now, "chosen": chosen is not None}, lambda: print(now), as_json)


@provider.command(short_help="Remove a provider whose keys nobody needs.")
@click.argument("name")
@click.option("--force", is_flag=True, help="Remove it although something needs it, or may; says what.")
@json_option
def remove(name: str, force: bool, as_json: bool) -> None:
    """Remove the provider NAME, and what opens it, for good. Only a backup brings its keys back.

    Refused while a VM or datastore has keys of it, as far as this machine opened them before; and while one
    of these datastores cannot be read, so that nobody knows. Copies of its files elsewhere stay.
    """
    from ioflt.datastore import seen
    from ioflt.errors import BusyError

    with open_providers() as providers:
        about = providers.about(name)
        known = providers.in_use(name)
        found = seen.survey(known.datastores)
        uses = seen.uses(found, name)
        for use in uses:
            if use.locks:
                warn(f"{use.path}: {from_now_on(use) if force else 'has keys of it'}")
            else:
                warn(f"{use.path}: {'loses' if force else 'has'} a key of it, another provider opens it too")
        for path in known.named:
            if path not in {use.path for use in uses}:
                warn(f"{path}: {'loses' if force else 'has'} a key of it, as keyd knows")
        for path, reason in found.unknown:
            warn(f"{path}: unknown whether it has keys of it: {reason}")
        if not force and (uses or known.named):
            raise BusyError(f"keys of the provider {name} are in use")
        if not force and found.unknown:
            raise BusyError(f"nobody knows whether keys of the provider {name} are in use")
        with reporting.by_files(name, ("provider.kind", about.kind, None)):
            providers.remove(about, force=force)
    tell_keyd()
    done = {
        "provider": name,
        "locked": [use.path for use in uses if use.locks],
        "unknown": [path for path, _ in found.unknown],
    }
    emit(done, lambda: say(f"the provider {name} is removed"), as_json)
