"""Events of a mount: who opened what, and which names came and went; and that nothing secret is in them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.audit import reader
from ioflt.audit.chain import Line
from ioflt.audit.event import Event, from_json
from tests.mounted.place import Place

pytestmark = [pytest.mark.fuse, pytest.mark.root]

USER = 61_001
SECRET = b"what the guest wrote and nobody reads"


def events() -> list[Event]:
    found = reader.on_disk(paths.find().events)
    return [from_json(Line.from_bytes(line).event) for file in found for line in file.data.splitlines()]


def shown(event: Event) -> tuple[str, int | None, list[object]]:
    return event.operation, event.served_uid, [change.after or change.before for change in event.changes]


def read_as_user(directory: Path, name: str) -> None:
    """The directories above are nothing to this user: he starts there."""
    subprocess.run(["cat", name], check=True, capture_output=True, cwd=directory, user=USER, group=USER)


def test_who_opened_what_by_uid(place: Place) -> None:
    place.make_homes()
    mountpoint = place.mount("--allow-other")
    disk = mountpoint / "thin" / "disk.img"
    disk.write_bytes(SECRET)
    disk.chmod(0o644)
    for _ in range(2):
        read_as_user(disk.parent, disk.name)
        disk.read_bytes()
    disk.rename(mountpoint / "thin" / "new.img")
    (mountpoint / "thin" / "new.img").unlink()
    (mountpoint / "clear" / "notes").write_bytes(SECRET)
    (mountpoint / "fresh").mkdir()
    (mountpoint / "fresh").rmdir()
    place.umount()
    began, *told, ended = (event for event in events() if event.reported)
    root = os.geteuid()
    assert shown(began) == ("mount", None, [str(mountpoint), "true"])
    assert shown(ended) == ("umount", None, [str(mountpoint)])
    assert began.object is not None
    assert began.object.kind == "datastore"
    assert list(map(shown, told)) == [
        ("file create", root, ["thin/disk.img"]),
        ("file open", root, ["thin/disk.img"]),
        ("file open", USER, ["thin/disk.img"]),
        ("file rename", root, ["thin/new.img"]),
        ("file remove", root, ["thin/new.img"]),
        ("file create", root, ["clear/notes"]),
        ("vm create", root, ["fresh"]),
        ("vm remove", root, ["fresh"]),
    ]
    assert {event.by.uid for event in told} == {root}
    assert all(event.object is not None and event.object.id for event in told)


def test_no_content_and_no_passphrase_is_in_any_event(place: Place) -> None:
    place.make_homes()
    mountpoint = place.mount()
    (mountpoint / "thin" / "disk.img").write_bytes(SECRET)
    place.umount()
    place.ioflt("vm", "recrypt", place.datastore / "thin")
    place.ioflt("vm", "decrypt", place.datastore / "thin")
    place.ioflt("vm", "encrypt", place.datastore / "thin")
    written = b"".join(file.data for file in reader.on_disk(paths.find().events))
    assert b"thin" in written
    for secret in (SECRET, SECRET.hex().encode(), SECRET[:16]):
        assert secret not in written
