"""A VM that runs, watched and held by who may back it up: keyd asks its mounts, about that VM alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.backup.writers import named
from ioflt.datastore.volume import Volume
from ioflt.errors import BusyError, DeniedError, NotFoundError, PeerError, UsageError
from ioflt.keyd import watched
from ioflt.keys import starter
from ioflt.keys.client import KeyClient
from ioflt.keys.mounts import MountControl
from ioflt.wire.keyd import access as wire
from ioflt.wire.keyd import replies, requests
from tests.mounted.place import Place
from tests.mounted.second import second_mount
from tests.operations.keyd.test_events import events
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.fuse]

KEEPER = "service:backup"
A_WHILE = 0.3


class Site:
    """A mount with the VMs `web` and `db`, and the connection of somebody who may back up web."""

    def __init__(self, place: Place, root: KeyClient, keys: KeyClient) -> None:
        self.place = place
        self.keys = keys
        top = place.mount()
        for name in ("web", "db"):
            (top / name).mkdir()
            (top / name / "disk").write_bytes(b"before")
        with Volume.open(place.datastore, root) as volume:
            self.where = {name: named(volume.home(name)) for name in ("web", "db")}
        self.web = wire.Object("vm", self.where["web"].id, "web")
        self.root = root
        root.change_access(wire.CreateService("backup", None))
        root.change_access(wire.Grant(KEEPER, "no-crypto-admin", self.web))

    def watch(self, name: str = "web", directory: str = ""):
        at = self.where[directory or name]
        return self.keys.watch_vm(self.where[name].id, name, at.device, at.inode)

    def disk(self, name: str = "web") -> Path:
        return self.place.mountpoint / name / "disk"


@pytest.fixture
def site(place: Place) -> Iterator[Site]:
    def reach(start: bool):
        return starter.greet(paths.find(), start=start, operation="backup run", as_principal=KEEPER)

    with KeyClient() as root, KeyClient.connect(reach) as keys:
        yield Site(place, root, keys)


@contextmanager
def writing(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)


def test_that_vm_alone_waits_and_is_told_of(site: Site) -> None:
    with (
        writing(site.disk()) as fd,
        writing(site.disk("db")) as fd2,
        ThreadPoolExecutor() as pool,
        site.watch() as web,
    ):
        with pytest.raises(DeniedError, match=r"Interact\.Backup on db"):
            site.watch("db")
        with pytest.raises(NotFoundError, match="no mount"):  # the other one by the id of this one
            site.watch("web", directory="db")
        web.hold(30)
        with site.watch() as another, pytest.raises(BusyError, match="another backup"):
            another.hold(30)
        waits = pool.submit(os.pwrite, fd, b"after!", 0)
        assert os.pwrite(fd2, b"passes", 0) == 6
        assert not wait([waits], A_WHILE).done
        assert list(web.take_written()) == []
        web.resume()
        assert waits.result(PATIENCE_S) == 6
        stored = (site.place.datastore / "web" / "disk").stat()
        assert {each[:2] for each in web.take_written()} == {(stored.st_dev, stored.st_ino)}
        assert list(web.take_written()) == []
    told = [each for each in events(paths.find()) if each.operation in ("backup watch", "backup hold")]
    assert {(each.object.shown, each.by.as_principal) for each in told} == {("web", KEEPER)}
    assert [each.operation for each in told] == ["backup watch", "backup hold", "backup watch", "backup hold"]
    assert told[0].changes[0].after == str(site.place.mountpoint)


def test_writes_go_on_when_the_connection_ends_or_the_limit_comes(site: Site) -> None:
    with writing(site.disk()) as fd, ThreadPoolExecutor() as pool:
        with site.watch() as web:
            web.hold(30)
            waits = pool.submit(os.pwrite, fd, b"after!", 0)
            assert not wait([waits], A_WHILE).done
        assert waits.result(PATIENCE_S) == 6
        with site.watch() as web:
            web.hold(1)
            assert pool.submit(os.pwrite, fd, b"again!", 0).result(PATIENCE_S) == 6
            with pytest.raises(BusyError, match="went on"):
                web.resume()


def test_who_may_not_any_more_holds_nothing(site: Site) -> None:
    with site.watch() as web:
        web.hold(30)
        site.root.change_access(wire.Revoke(KEEPER, site.web))
        web.resume()
        for ask in (lambda: web.hold(30), lambda: list(web.take_written())):
            with pytest.raises(DeniedError, match=r"Interact\.Backup on web"):
                ask()


def test_a_mount_that_begins_meanwhile_is_told(site: Site) -> None:
    with site.watch() as web:
        web.hold(30)
        with second_mount(site.place), pytest.raises(BusyError, match="another mount"):
            web.resume()
        assert site.disk().write_bytes(b"after!") == 6


def test_a_mount_that_hangs_is_named_and_holds_up_nobody_else(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "ANSWER_S", 0.5)
    with MountControl(paths.find().control_socket(str(site.place.mountpoint))) as control:
        pid = control.status.pid
    asked = watched.Watched(paths.find(), site.where["web"], "web")
    os.kill(pid, signal.SIGSTOP)
    try:
        for ask in (asked.take, lambda: asked.hold(1), lambda: watched.Watched(paths.find(), None, "web")):
            with pytest.raises(PeerError, match=r"the mount at .*sock"):
                ask()
    finally:
        os.kill(pid, signal.SIGCONT)
        asked.close()


def test_what_comes_before_its_time_is_refused(site: Site) -> None:
    for request in (requests.TakeVmWritten(), requests.HoldVm(1)):
        with pytest.raises(UsageError, match="watches no VM"):
            site.keys._ask(request, replies.Done)
