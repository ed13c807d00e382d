"""What may become of a set of policies: each change is a new set, or an error."""

from __future__ import annotations

from collections.abc import Sequence

from ioflt.errors import ExistsError, NotFoundError, UsageError
from ioflt.policy.bundled import BUNDLED
from ioflt.policy.model import StoragePolicy, check
from ioflt.spelling import meant

#: Policies of one's own, in the order in which they were made. The bundled ones are always there.
Policies = Sequence[StoragePolicy]


def named(own: Policies, name: str) -> StoragePolicy | None:
    """The policy of that name, bundled or not."""
    return next((policy for policy in (*BUNDLED, *own) if policy.name == name), None)


def find(own: Policies, text: str) -> StoragePolicy:
    """The policy of that name, or that id. Raises NotFoundError, which names the nearest one."""
    found = named(own, text) or next((each for each in (*BUNDLED, *own) if each.id == text), None)
    if found is None:
        raise NotFoundError(f"no policy {text}{meant(text, [each.name for each in (*BUNDLED, *own)])}")
    return found


def add(own: Policies, policy: StoragePolicy) -> tuple[StoragePolicy, ...]:
    """With one more. Raises ExistsError for an id, or a name in any case, that is there; UsageError for a bad
    policy.
    """
    for known in (*BUNDLED, *own):
        if policy.id == known.id or policy.name.casefold() == known.name.casefold():
            raise ExistsError(f"there is a policy {known.name} already")
    return (*own, check(policy))


def remove(own: Policies, name: str) -> tuple[StoragePolicy, ...]:
    """Without that one. Raises UsageError for a bundled one, NotFoundError."""
    if any(policy.name == name for policy in BUNDLED):
        raise UsageError(f"{name} comes with ioflt, and stays")
    left = tuple(policy for policy in own if policy.name != name)
    if len(left) == len(own):
        raise NotFoundError(f"no policy {name}")
    return left
