"""What an attacker gets who took over a mount by a file that it parsed: the datastore, and nothing else."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.fuse import starter
from ioflt.keys.client import KeyClient
from tests import doors
from tests.mounted.place import Place
from tests.waiting import await_end

pytestmark = pytest.mark.fuse

PROGRAM = Path(__file__).with_name("exploited.py")


def _found(
    place: Place, asked: list[tuple[str, object]], monkeypatch: pytest.MonkeyPatch, *options: str
) -> dict[str, str]:
    """What each door answered in a mount that was taken over; the mount serves on."""
    wrapper = place.base / "python"
    command = f'"{sys.executable}" -P "{PROGRAM}" {" ".join(options)}'
    path = f'PYTHONPATH="{PROGRAM.parents[2]}:$PYTHONPATH"'
    wrapper.write_text(f'#!/bin/sh\nshift 3  # -P -m ioflt.fuse\n{path} exec {command} "$@"\n')
    wrapper.chmod(0o700)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(wrapper))
        starter.start(place.datastore, place.mountpoint, read_only=False, allow_other=False)
    disk = place.mountpoint / "thin" / "disk"
    disk.write_bytes(b"content")
    doors.plan(place.datastore, asked)
    with disk.open("r+b") as file:  # its header is parsed
        file.write(b"CONTENT")
    assert disk.read_bytes() == b"CONTENT"
    return doors.found(place.datastore, asked)


@pytest.fixture
def outside(place: Place) -> list[tuple[str, object]]:
    """Every way out of the datastore, each with something real behind it."""
    place.make_homes()
    where = paths.find()
    beyond = place.base / "outside"
    beyond.mkdir()
    secret = beyond / "secret"
    secret.write_text("secret")
    (beyond / "point").mkdir()
    provider = next(where.providers.glob("*.json"))
    with KeyClient() as keys:
        keyd = keys.status().pid
    return [
        ("read", str(secret)),
        ("read", "/etc/hostname"),
        ("read", str(provider)),
        ("read", f"/proc/{keyd}/environ"),
        ("read through a link of its own", str(secret)),
        ("list", str(beyond)),
        ("write", str(beyond / "new")),
        ("write", str(secret)),
        ("write", str(provider)),
        ("connect", str(where.keyd_socket)),
        ("open a TCP socket", None),
        ("make a socket pair", None),
        ("run", "/bin/true"),
        ("send a signal", keyd),
        ("replace", str(beyond / "replaced")),
    ]


def test_a_mount_that_is_taken_over_reaches_nothing_but_its_datastore(
    place: Place, outside: list[tuple[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _found(place, outside, monkeypatch)
    assert {door: answer for door, answer in found.items() if "PermissionError" not in answer} == {}


def test_without_confinement_all_these_doors_are_open(
    place: Place, outside: list[tuple[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _found(place, outside, monkeypatch, "--unconfined")
    assert {door: answer for door, answer in found.items() if answer != "open"} == {}


def test_a_mount_whose_broker_was_killed_serves_and_ends(place: Place) -> None:
    """What is open and whose connections to keyd stand goes on; only nothing new is reached."""
    home = place.mount() / "vm"
    home.mkdir()
    (home / "disk").write_bytes(b"content")
    pid = place.pid
    mount, broker = os.pidfd_open(pid), int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
    os.kill(broker, signal.SIGKILL)
    assert (home / "disk").read_bytes() == b"content"
    place.umount()
    await_end(mount)
    os.close(mount)
    (complaint,) = place.complaints()
    assert "the mount's broker is gone" in complaint
    assert f"unmounted {place.mountpoint}" in place.log, "it ended in order"
    place.mount()
    assert (home / "disk").read_bytes() == b"content"
