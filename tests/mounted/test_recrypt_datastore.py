"""Other keys for a datastore under a mount that has its files open."""

from __future__ import annotations

import json
import os

import pytest

from ioflt.datastore import wrapping
from ioflt.datastore.standing import stored_as
from ioflt.format.record import record as form
from ioflt.types import KeyRef
from tests.mounted.place import Place

pytestmark = [pytest.mark.fuse]


def named(place: Place, name: str) -> tuple[KeyRef, ...]:
    with (place.datastore / name).open("rb") as file:
        return wrapping.named_keys(file.fileno(), stored_as(name))


def test_while_files_at_the_top_are_written(place: Place) -> None:
    place.make_homes()
    top = place.mount()
    (top / "clear" / "log").write_bytes(b"clear")
    (top / "closed").write_bytes(b"closed" * 1000)
    with (top / "disk").open("wb", buffering=0) as disk, (top / "top.vmx").open("wb") as vmx:
        for number in range(20):
            os.pwrite(disk.fileno(), b"%08d" % number, 4096 * number)
        vmx.write(b'a = "b"\n')
        vmx.flush()
        os.fsync(vmx.fileno())
        before = form.parse_datastore((place.datastore / ".ioflt").read_bytes()).record.keys
        place.ioflt("datastore", "recrypt", place.datastore)
        keys = form.parse_datastore((place.datastore / ".ioflt").read_bytes()).record.keys
        assert keys != before
        assert {named(place, name) for name in ("disk", "closed", "top.vmx")} == {keys}
        os.pwrite(disk.fileno(), b"after", 0)
        os.fsync(disk.fileno())
    (top / "later").write_bytes(b"later")
    assert named(place, "later") == keys
    (top / "clear").rename(top / "renamed")
    (top / "renamed" / "more").write_bytes(b"more")
    assert (top / "renamed" / "log").read_bytes() == b"clear"
    (top / "vm").mkdir()
    (top / "vm" / "disk").write_bytes(b"disk")
    place.remount()
    assert (top / "disk").read_bytes()[:8] == b"after000"
    assert (top / "closed").read_bytes() == b"closed" * 1000
    assert (top / "top.vmx").read_bytes() == b'a = "b"\n'
    assert (top / "renamed" / "more").read_bytes() == b"more"
    shown = json.loads(place.ioflt("datastore", "show", "--json", place.datastore).stdout)
    assert [home["problem"] for home in shown["homes"]] == [None] * 5
