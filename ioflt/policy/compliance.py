"""Where a VM departs from its policy, and which command mends that."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from ioflt.policy.model import CBT, StoragePolicy


@dataclass(frozen=True, slots=True)
class Facts:
    """What is so of a VM. `place`: its path, DIR/VM.

    `providers` of its keys, each once. `thick`: new files are. `clear_files`: paths in the VM of those that
    are kept clear although it is encrypted. `without_slot`: of those that no recovery passphrase opens.
    `untracked`: of disks whose changed blocks are not tracked.
    """

    place: str
    encrypted: bool
    providers: tuple[str, ...] = ()
    thick: bool = False
    integrity: bool = False
    clear_files: tuple[str, ...] = ()
    without_slot: tuple[str, ...] = ()
    untracked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Departure:
    """`what` of a VM is `found` otherwise than `wanted`. `mend`: the command for that, if one does it."""

    what: str
    wanted: str
    found: str
    mend: str | None


def departures(policy: StoragePolicy, facts: Facts) -> list[Departure]:
    """Each departure of a VM from its policy."""
    place = shlex.quote(facts.place)
    assign = f"ioflt policy assign {shlex.quote(policy.name)} {place}"
    if facts.encrypted != policy.encrypts:
        return [Departure("encryption", _state(policy.encrypts), _state(facts.encrypted), assign)]
    found = list(_of_encrypted(policy, facts, place, assign)) if policy.encrypts else []
    for path in facts.untracked if policy.has(CBT) else ():
        enable = f"ioflt cbt enable {place} {shlex.quote(path)}"
        found.append(Departure(f"changed blocks of {path}", "tracked", "not tracked", enable))
    return found


def of_top(policy: StoragePolicy, files: list[str]) -> list[Departure]:
    """Of the encrypted `files` at a datastore's top, which are in no VM, from the datastore's policy."""
    if not policy.integrity:
        return []
    found = "none: only files of VMs have any"
    return [Departure(f"integrity of {name}", "tags", found, None) for name in files]


def _of_encrypted(policy: StoragePolicy, facts: Facts, place: str, assign: str) -> Iterator[Departure]:
    if policy.provider is not None and facts.providers != (policy.provider,):
        recrypt = f"ioflt vm recrypt {place} --provider {shlex.quote(policy.provider)}"
        yield Departure("provider", policy.provider, ", ".join(facts.providers), recrypt)
    if policy.provisioning is not None and facts.thick != (policy.provisioning == "thick"):
        found = "thick" if facts.thick else "thin"
        yield Departure("provisioning of new files", policy.provisioning, found, assign)
    if policy.integrity and not facts.integrity:
        yield Departure("integrity", "tags", "none", f"ioflt vm recrypt {place} --deep --integrity")
    for path in facts.clear_files:
        mend = f"ioflt vm encrypt {place} --disk {shlex.quote(path)}"
        yield Departure(f"file {path}", "encrypted", "clear", mend)
    if policy.recovery_slot and facts.without_slot:
        found = f"none in {', '.join(facts.without_slot)}"
        yield Departure("recovery slot", "in each file", found, f"ioflt recovery add {place}")


def _state(encrypted: bool) -> str:
    return "encrypted" if encrypted else "clear"
