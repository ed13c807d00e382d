"""Names that completion offers: those that come with ioflt, and those that a keyd that runs knows."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem

from ioflt.errors import IofltError

if TYPE_CHECKING:
    import click

    from ioflt.access.state import AccessState


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


def _access() -> AccessState | None:
    from ioflt.keys.client import KeyClient

    with suppress(IofltError, OSError), KeyClient(start=False) as keys:
        return keys.access()
    return None


def _fitting(named: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    return [
        CompletionItem(name, help=meaning or None) for name, meaning in named if name.startswith(incomplete)
    ]
