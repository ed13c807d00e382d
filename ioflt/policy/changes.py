"""What may become of a set of policies: each change is a new set, or an error."""

from __future__ import annotations

from collections.abc import Sequence

from ioflt.errors import ExistsError, NotFoundError, UsageError
from ioflt.policy.bundled import BUNDLED
from ioflt.policy.model import StoragePolicy, check

#: Policies of one's own, in the order in which they were made. The bundled ones are always there.
Policies = Sequence[StoragePolicy]


def named(own: Policies, name: str) -> StoragePolicy | None:
    """The policy of that name, bundled or not."""
    return next((policy for policy in (*BUNDLED, *own) if policy.name == name), None)


def add(own: Policies, policy: StoragePolicy) -> tuple[StoragePolicy, ...]:
    """With one more. Raises ExistsError for a name or id that is there, UsageError for a bad policy."""
    if any(policy.name == known.name or policy.id == known.id for known in (*BUNDLED, *own)):
        raise ExistsError(f"there is a policy {policy.name} already")
    return (*own, check(policy))


def remove(own: Policies, name: str) -> tuple[StoragePolicy, ...]:
    """Without that one. Raises UsageError for a bundled one, NotFoundError."""
    if any(policy.name == name for policy in BUNDLED):
        raise UsageError(f"{name} comes with ioflt, and stays")
    left = tuple(policy for policy in own if policy.name != name)
    if len(left) == len(own):
        raise NotFoundError(f"no policy {name}")
    return left
