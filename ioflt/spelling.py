"""Names that nothing has: which one was meant."""

from __future__ import annotations

from collections.abc import Iterable


def meant(text: str, known: Iterable[str]) -> str:
    """The end of an error about a name that nothing has: "; did you mean X?", or nothing if none is near."""
    from difflib import get_close_matches  # late: most commands name what is there

    shown = {name.casefold(): name for name in known}
    close = get_close_matches(text.casefold(), shown, n=1)
    return f"; did you mean {shown[close[0]]}?" if close else ""
