"""Names that completion offers: those that come with ioflt, and those that a keyd that runs knows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from click.shell_completion import CompletionItem

from ioflt.errors import IofltError

if TYPE_CHECKING:
    import click

    from ioflt.access.state import AccessState


#: As points of backups are called (`format/manifest/SPEC.md`).
_POINT: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z", re.ASCII)


def privileges(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from ioflt.access.privileges import MEANING

    return _fitting([(str(each), meaning) for each, meaning in MEANING.items()], incomplete)


def roles(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from ioflt.access.roles import BUILT_IN

    state = _access()
    known = BUILT_IN if state is None else state.all_roles()
    return _fitting([(each.id, each.shown) for each in known], incomplete)


def folders(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    state = _access()
    return _fitting([(each.name, "") for each in (() if state is None else state.folders)], incomplete)


def policies(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """By their ids where a name has blanks, which not every shell quotes."""
    from ioflt.keys.client import KeyClient
    from ioflt.policy import text
    from ioflt.policy.bundled import BUNDLED

    known = list(BUNDLED)
    with suppress(IofltError, OSError), KeyClient(start=False) as keys:
        known += text.parse(keys.policies())
    named = [(each.id if " " in each.name else each.name, each.name) for each in known]
    return _fitting(named, incomplete)


def backed_up(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The VMs of the destination that was typed. Names of directories: no key is asked for."""
    return _fitting([(name, "") for name in _directories(_destination(ctx))], incomplete)


def points(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The newest first: of the VM that was typed, else of the only one."""
    destination, vm = _destination(ctx), ctx.params.get("vm")
    vms = _directories(destination) if vm is None else [vm]
    if destination is None or len(vms) != 1:
        return []
    names = _directories(os.path.join(destination, vms[0]))
    return _fitting([(name, "") for name in reversed(names) if _POINT.fullmatch(name)], incomplete)


def _destination(ctx: click.Context) -> str | None:
    """What was typed first: click gives it no name while an option still lacks its value."""
    typed = ctx.params.get("destination") or next(iter(ctx.args), None)
    return None if typed is None else os.fspath(typed)


def _directories(path: str | None) -> list[str]:
    """Those in a directory that are not hidden, sorted."""
    if path is None:
        return []
    try:
        with os.scandir(path) as entries:
            return sorted(each.name for each in entries if each.is_dir() and not each.name.startswith("."))
    except OSError:
        return []


def _access() -> AccessState | None:
    from ioflt.keys.client import KeyClient

    with suppress(IofltError, OSError), KeyClient(start=False) as keys:
        return keys.access()
    return None


def _fitting(named: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    return [
        CompletionItem(name, help=meaning or None) for name, meaning in named if name.startswith(incomplete)
    ]
