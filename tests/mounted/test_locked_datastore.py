"""A datastore whose own key is on a key server that does not answer: mounted, it unlocks by itself."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.keys.client import KeyClient
from ioflt.keys.kmip.store import KmipStore
from ioflt.testing.pykmip import HOST, Authority, PyKmip
from tests.kmip_peers import make
from tests.mounted.place import Place
from tests.waiting import eventually

pytestmark = [pytest.mark.fuse, pytest.mark.interop("strace")]

TEXT = b"plaintext" * 10_000
LONG = b"the canary sings" * 100_000


class Server:
    """A KMIP server with an address that stays."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.authority = Authority(directory / "pki")
        self._certificate = self.authority.issue("server", hosts=(HOST,))
        self._running = PyKmip.start(directory, self.authority, self._certificate)
        self.port = self._running.port

    def leave(self, how: str) -> None:
        if how == "down":
            self._running.kill()
        else:
            self._running.hang()

    def come_back(self, how: str) -> None:
        if how == "down":
            self._running = PyKmip.start(
                self._directory, self.authority, self._certificate, "again", self.port
            )
        else:
            self._running.go_on()

    def end(self) -> None:
        self._running.kill()


@pytest.fixture
def server(place: Place) -> Iterator[Server]:
    """Of the provider corp, which keyd knows."""
    made = Server(place.base / "kmip")
    try:
        make(KmipStore(paths.find().ensure().providers), made.authority, made.port, seconds=1.0).close()
        with KeyClient() as keys:
            keys.reload()
        yield made
    finally:
        made.end()


@pytest.fixture
def filled(place: Place, server: Server) -> Place:
    """Not mounted. The VM `native` has a key of this machine; the datastore and `cut` have some of corp, and
    `cut` was killed while it was encrypted; `plain` is clear.
    """
    top = place.mount()
    (top / "native").mkdir()
    (top / "native" / "disk").write_bytes(TEXT)
    (top / "empty").mkdir()
    place.ioflt("datastore", "recrypt", place.datastore, "--provider", "corp")
    for name in ("kmip", "cut", "plain"):
        (top / name).mkdir()
        (top / name / "disk").write_bytes(LONG)
    (top / "top.img").write_bytes(TEXT)
    place.umount()
    place.ioflt("vm", "decrypt", place.datastore / "plain")
    cut = place.datastore / "cut"
    done = subprocess.run(
        [
            *("strace", "-qq", "-o", "/dev/null", "-P", cut / "disk", "-e", "trace=fsync"),
            *("-e", "inject=fsync:signal=SIGKILL:when=3"),
            *(sys.executable, "-m", "ioflt", "vm", "recrypt", "--deep", "--mode", "journal", cut),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, done.stderr
    place.ioflt("keyd", "stop")  # its memory has the keys
    return place


def no_key(action: Callable[[], object]) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENOKEY)) as caught:
        action()
    assert caught.value.errno == errno.ENOKEY


def keys_of(place: Place, *arguments: object) -> list[str]:
    shown = json.loads(place.ioflt(*arguments, "--json").stdout)
    return [key["key"] for key in shown.get("record", shown)["missing"]]


@pytest.mark.parametrize("how", ["down", "hung"])
def test_it_is_locked_and_unlocks_by_itself(filled: Place, server: Server, how: str) -> None:
    place = filled
    server.leave(how)
    said = place.ioflt("mount", place.datastore, place.mountpoint).stderr
    (own,) = keys_of(place, "datastore", "show", place.datastore)
    assert own.startswith("corp:")
    assert f"{place.datastore}: its own key {own} cannot be had" in said
    assert f"the key servers of corp do not answer: {HOST}:{server.port}" in said
    assert said.rstrip().endswith("try each step: ioflt provider test corp")
    top = place.mountpoint

    assert sorted(os.listdir(top)) == ["cut", "empty", "kmip", "native", "plain", "top.img"]
    assert os.listdir(top / "kmip") == ["disk"]
    assert (top / "kmip" / "disk").stat().st_size == len(LONG)
    assert (top / "native" / "disk").read_bytes() == TEXT
    (top / "native" / "new").write_bytes(TEXT)
    (top / "native").rename(top / "renamed")
    (top / "renamed" / "new").unlink()
    (top / "empty").rmdir()
    for name in ("kmip/disk", "plain/disk", "top.img"):
        no_key((top / name).read_bytes)
    no_key((top / "new").mkdir)
    no_key(lambda: (top / "new.img").write_bytes(b"x"))
    no_key(lambda: (top / "plain" / "new").write_bytes(b"x"))
    assert not (place.datastore / "new").exists()
    assert len(keys_of(place, "vm", "show", place.datastore / "kmip")) == 1
    assert keys_of(place, "vm", "show", place.datastore / "plain") == [own]
    assert "is complete" not in place.log
    pid = place.pid

    server.come_back(how)
    eventually(lambda: "its key is there, and its record valid" in place.log)  # though nobody asks for it
    eventually(lambda: "cut: its interrupted deep recrypt is complete" in place.log)
    for name in ("kmip/disk", "plain/disk", "cut/disk"):
        assert (top / name).read_bytes() == LONG
    assert (top / "top.img").read_bytes() == TEXT
    (top / "new").mkdir()
    (top / "new" / "disk").write_bytes(TEXT)
    (top / "plain" / "new").write_bytes(TEXT)
    assert place.pid == pid
    place.umount()
    found = json.loads(place.ioflt("check", place.datastore, "--json", check=False).stdout)
    findings = {entry["path"]: entry["finding"] for entry in found["entries"] if entry["finding"]}
    assert findings == {"plain/.ioflt": "a clear home in a datastore that encrypts"}
    assert "bug" not in place.log
    assert "Traceback" not in place.log


def test_it_ends_while_it_waits_for_its_key(filled: Place, server: Server) -> None:
    server.leave("hung")
    place = filled
    top = place.mount()
    assert (top / "native" / "disk").read_bytes() == TEXT
    place.umount()
    assert "unmounted" in place.log


def test_mounted_for_reading(filled: Place, server: Server) -> None:
    server.leave("down")
    top = filled.mount("--read-only")
    no_key((top / "plain" / "disk").read_bytes)
    assert (top / "native" / "disk").read_bytes() == TEXT
    server.come_back("down")
    assert (top / "plain" / "disk").read_bytes() == LONG
    assert (top / "top.img").read_bytes() == TEXT
