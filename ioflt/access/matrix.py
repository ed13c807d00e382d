"""The table of operations and built-in roles, in Markdown, for README.md."""

from __future__ import annotations

from itertools import chain
from typing import Final

from ioflt.access.operations import OPERATIONS, Need, Operation
from ioflt.access.privileges import Privilege
from ioflt.access.roles import BUILT_IN, Role

#: The lines of a document between which the table stands.
BEGIN: Final = "<!-- matrix: made by tools/matrix.py -->"
END: Final = "<!-- end of matrix -->"


def matrix() -> str:
    """Operations that ask for the same share a row; a role has "yes" if it has all of that, and that is
    enough: "root" if it is not.
    """
    rows: dict[tuple[tuple[Need, ...], bool, bool], list[Operation]] = {}
    for operation in OPERATIONS.values():
        asked = (operation.needs, operation.hands_out, operation.by_root)
        rows.setdefault(asked, []).append(operation)
    head = ("operation", "asks for", "data keys", *(role.shown for role in BUILT_IN))
    lines = [head, ("---",) * len(head), *(_row(*each) for each in rows.items())]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def placed(document: str) -> str:
    """The document with the table as it is now. Raises ValueError where it has no place for one."""
    before, begin, rest = document.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no lines {BEGIN} and {END}")
    return "".join((before, begin, matrix(), end, after))


def _row(asked: tuple[tuple[Need, ...], bool, bool], operations: list[Operation]) -> tuple[str, ...]:
    needs, hands_out, by_root = asked
    names = "<br>".join(operation.name for operation in operations)
    return (
        names,
        _told(needs) if needs else "nothing",
        "yes" if hands_out else "",
        *(_holds(role, needs, by_root) for role in BUILT_IN),
    )


def _told(needs: tuple[Need, ...]) -> str:
    if {need.privilege for need in needs} == set(Privilege):
        return f"every privilege<br>on {needs[0].on.value}"
    places = dict.fromkeys(need.on for need in needs)
    parts = ((*(f"`{need.privilege}`" for need in needs if need.on is on), f"on {on.value}") for on in places)
    return "<br>".join(chain.from_iterable(parts))


def _holds(role: Role, needs: tuple[Need, ...], by_root: bool) -> str:
    if not needs and not by_root:
        return "·"
    if not all(need.privilege in role.privileges for need in needs):
        return "no"
    return "root" if by_root else "yes"
