"""Whose a key is that several VMs have, or one that moved: keyd knows it after a restart, too."""

from __future__ import annotations

import pytest

from ioflt.datastore import clone, move, recrypt
from ioflt.errors import DeniedError, PeerError
from ioflt.format.record import record as form
from ioflt.keys.client import KeyClient
from tests.daemons import end_keyd
from tests.operations.keyd.test_enforcement import DISK, Site, read, record_of, show, site, wrapped

__all__ = ["site"]


def refused(keys: KeyClient, site: Site, path: str) -> bool:
    """Whether he is denied the data key of that file."""
    (answer,) = keys.unwrap([wrapped(site, path)])
    return isinstance(answer, DeniedError)


@pytest.mark.parametrize("restarts", [0, 2])
def test_who_may_read_one_of_two_vms_with_one_key_reads_neither(site: Site, restarts: int) -> None:
    clone.clone(site.ds, "web", site.ds, "twin", same_key=True)
    site.grant("mallory", site.ds.home("twin"), "Access")
    site.grant("alice", site.ds, "Access")
    for restart in range(restarts + 1):
        if restart:
            end_keyd()
        mallory = site.client("mount", "mallory")
        show(mallory, site, "ds/twin")  # and nobody that of web
        assert refused(mallory, site, "ds/web/disk.img")
        assert refused(mallory, site, "ds/twin/disk.img")
    there = site.as_("alice", "mount")
    assert read(there, "web/disk.img") == read(there, "twin/disk.img") == DISK


def test_a_denial_of_a_shared_key_says_that_it_is_shared(site: Site) -> None:
    clone.clone(site.ds, "web", site.ds, "twin", same_key=True)
    site.grant("mallory", site.ds.home("twin"), "Access")
    mallory = site.client("mount", "mallory")
    show(mallory, site, "ds/twin")
    (answer,) = mallory.unwrap([wrapped(site, "ds/twin/disk.img")])
    assert isinstance(answer, DeniedError)
    assert answer.message == (
        "permission denied: Cryptographer.Access on web, which has the key of twin as well"
    )


def test_a_key_that_was_shared_once_stays_so_for_what_has_it(site: Site) -> None:
    clone.clone(site.ds, "web", site.ds, "twin", same_key=True)
    (old,) = record_of(site.ds, "web").keys
    recrypt.recrypt(site.ds, "web")
    site.grant("mallory", site.ds.home("web"), "Access")
    end_keyd()
    mallory = site.client("mount", "mallory")
    show(mallory, site, "ds/web")
    assert record_of(site.ds, "web").keys != (old,)
    assert not refused(mallory, site, "ds/web/disk.img")
    assert refused(mallory, site, "ds/twin/disk.img")


def test_a_record_from_before_a_move_does_not_bring_the_old_datastores_permissions_back(site: Site) -> None:
    old = form.parse((site.top / "ds/web/.ioflt").read_bytes())
    site.grant("mallory", site.ds, "Access")
    site.grant("alice", site.clear, "Access")
    move.move(site.ds, "web", site.clear, "web")
    assert record_of(site.clear, "web").keys == old.record.keys
    for _ in range(2):
        end_keyd()
        mallory = site.client("mount", "mallory")
        assert all(mallory.check_record(old.payload, old.tags, old.record.keys))
        assert refused(mallory, site, "clear/web/disk.img")
        assert read(site.as_("alice", "mount", "clear"), "web/disk.img") == DISK


def test_a_keyd_that_cannot_read_whose_keys_are_does_not_start(site: Site, where) -> None:
    clone.clone(site.ds, "web", site.ds, "twin", same_key=True)
    end_keyd()
    where.shared_keys.write_bytes(where.shared_keys.read_bytes()[:-2])
    with pytest.raises(PeerError, match="does not say which VMs share a key"):
        site.client("mount", "mallory")
