"""Which events are shown of a VM: those about it, and about the keys that it had by then."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ioflt.audit.event import Actor, Change, Event, Thing, modified
from ioflt.cli.events import _filter
from ioflt.errors import UsageError

HOME = "00000000-0000-0000-0000-00000000000"


def event(operation: str, kind: str, ident: str, shown: str, *changes: Change) -> Event:
    time = datetime(2026, 3, 1, tzinfo=UTC)
    return Event(time, Actor("user:alice", 1000, 7), operation, Thing(kind, ident, shown), changes=changes)


def of_vm(number: int, key: str) -> Event:
    named = {"keyId": key, "providerId": {"id": "corp"}}
    return event("vm encrypt", "vm", f"{HOME}{number}", f"vm{number}", modified("config.keyId", None, named))


def use(key: str) -> Event:
    return event("key use", "key", f"corp:{key}", f"corp:{key}")


def test_of_a_vm_and_of_its_keys() -> None:
    log = [
        use("k1"),
        of_vm(1, "k1"),
        of_vm(2, "k2"),
        use("k1"),
        use("k2"),
        of_vm(1, "k3"),
        use("k3"),
        use("k1"),
    ]
    for vm in ("vm1", f"{HOME}1"):
        wanted = _filter(None, vm, None, "key use")
        assert [index for index, each in enumerate(log) if wanted(each)] == [3, 6, 7]
        wanted = _filter(None, vm, None, None)
        assert [index for index, each in enumerate(log) if wanted(each)] == [1, 3, 5, 6, 7]


def test_a_type_that_is_none() -> None:
    with pytest.raises(UsageError, match="no event is called 'vm exprt'; did you mean vm export"):
        _filter(None, None, None, "vm exprt")
