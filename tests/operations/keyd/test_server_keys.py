"""Keys on key servers by keyd, for who may and has nothing that opens the servers; and who may not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.datastore import clone, erase
from ioflt.datastore.volume import Volume
from ioflt.errors import (
    BusyError,
    DeniedError,
    KeyNotFound,
    KeyNotUsable,
    NotFoundError,
    PeerError,
    ProviderLocked,
    UsageError,
)
from ioflt.keys.client import KeyClient
from ioflt.keys.keyd_providers import KeydProviders
from ioflt.keys.kmip.file import KmipServer
from ioflt.testing.kmip_server import KmipServer as Server
from ioflt.testing.pykmip import HOST, Authority
from ioflt.types import HomeState, KeyRef
from ioflt.wire.keyd.requests import Criterion
from ioflt.wire.keyd.values import MAX_CRITERIA
from ioflt.wire.kmip.enumerations import State
from tests.authority import authority as authority
from tests.authority import certificate as certificate
from tests.operations.keyd.test_events import events
from tests.operations.keyd.test_providers import Site
from tests.operations.keyd.test_providers import kim as kim
from tests.operations.keyd.test_providers import site as site

ACTIVE = Criterion("State", "active")


@dataclass(frozen=True)
class Corp:
    """The servers of the provider corp, and a key that is active there."""

    server: Server
    key: KeyRef

    def state(self, key: KeyRef) -> int | None:
        found = self.server.keys.get(key.key_id)
        return None if found is None else int(found.state)


@pytest.fixture
def corp(site: Site, kim: KeyClient, authority: Authority, certificate: tuple[Path, Path]) -> Iterator[Corp]:
    providers = KeydProviders(kim)
    with Server(certificate, authority.path) as server:
        at = KmipServer(host=HOST, port=server.port)
        request = providers.create_kmip("corp", [at], 5.0, csr=True)
        providers.install(providers.about("corp"), authority.sign(request))
        providers.trust_authority(providers.about("corp"), authority.path.read_text())
        yield Corp(server, site.root.new_key("corp"))


def test_a_key_is_found_revoked_and_destroyed(
    site: Site, kim: KeyClient, corp: Corp, where: paths.Paths
) -> None:
    key = corp.key
    assert list(kim.locate_keys("corp", [ACTIVE])) == [key.key_id]
    assert list(kim.locate_keys("corp", [Criterion("x-Name", "other")])) == []
    with pytest.raises(KeyNotUsable, match="may not be used"):
        kim.destroy_key(key)
    kim.revoke_key(key, "superseded")
    assert corp.state(key) == State.DEACTIVATED
    assert list(kim.locate_keys("corp", [ACTIVE])) == []
    kim.destroy_key(key)
    assert corp.state(key) in (None, State.DESTROYED)
    (state,) = site.root.key_states([key], ask=False)
    assert isinstance(state.missing, KeyNotFound)  # keyd has heard of it
    told = [each for each in events(where) if each.operation in ("key revoke", "key destroy")]
    assert [
        (each.operation, each.outcome, [change.after for change in each.changes], each.reported)
        for each in told
    ] == [
        ("key destroy", "done", ["destroyed"], False),
        ("key destroy", "failed", ["destroyed"], False),
        ("key revoke", "done", ["revoked, superseded"], False),
        ("key destroy", "done", ["destroyed"], False),
    ]
    assert {(each.by.as_principal, each.privilege, each.object and each.object.id) for each in told} == {
        ("user:kim", "Cryptographer.ManageKeys", str(key))
    }


def test_who_lacks_the_privilege_does_nothing(site: Site, corp: Corp) -> None:
    reader = site.client("rae", "ReadKeyServersInfo", "ManageKeyServers", "Access")
    assert list(reader.locate_keys("corp", [ACTIVE])) == [corp.key.key_id]
    attempts: list[Callable[[], object]] = [
        lambda: reader.revoke_key(corp.key, "unspecified"),
        lambda: reader.destroy_key(corp.key),
        lambda: reader.erase_key(corp.key, "0f0e0d0c-0000-4000-8000-000000000000"),
    ]
    for attempt in attempts:
        with pytest.raises(DeniedError, match=r"denied: Cryptographer\.ManageKeys on everything"):
            attempt()
    other = site.client("olga", "ManageKeys", "Encrypt")
    with pytest.raises(DeniedError, match=r"denied: Cryptographer\.ReadKeyServersInfo on everything"):
        other.locate_keys("corp", [])
    assert corp.state(corp.key) == State.ACTIVE


def test_what_has_no_servers_has_no_keys_there(site: Site, kim: KeyClient) -> None:
    KeydProviders(kim).create_native("own", None)
    for name, kind, why in (
        ("own", UsageError, "has no key servers"),
        ("none", NotFoundError, "no provider none"),
        ("../own", UsageError, "not a provider name"),
    ):
        attempts: list[Callable[[], object]] = [
            lambda name=name: kim.locate_keys(name, []),  # type: ignore[misc]
            lambda name=name: kim.revoke_key(KeyRef(name, "1"), "unspecified"),  # type: ignore[misc]
            lambda name=name: kim.destroy_key(KeyRef(name, "1")),  # type: ignore[misc]
        ]
        for attempt in attempts:
            with pytest.raises(kind, match=why):
                attempt()


def test_what_is_no_value_of_an_attribute_is_refused(kim: KeyClient, corp: Corp) -> None:
    for name, text in (("State", "asleep"), ("Cryptographic Length", "9" * 400), ("Initial Date", "never")):
        with pytest.raises(UsageError, match=f"no {name}"):
            kim.locate_keys("corp", [Criterion(name, text)])
    with pytest.raises(PeerError):
        kim.locate_keys("corp", [ACTIVE] * (MAX_CRITERIA + 1))


def test_while_keyd_is_locked_nothing_is_asked(site: Site, kim: KeyClient, corp: Corp) -> None:
    kim.lock("refuse")
    with pytest.raises(ProviderLocked):
        kim.revoke_key(corp.key, "key-compromise")
    kim.unlock()
    kim.revoke_key(corp.key, "key-compromise")
    assert corp.state(corp.key) == State.COMPROMISED


def test_the_key_of_an_erased_vm_goes_unless_keyd_knows_of_another_that_has_it(
    site: Site, kim: KeyClient, corp: Corp, tmp_path: Path
) -> None:
    """The one who erases has no notes of what root opened on this host."""
    KeydProviders(kim).choose("corp", None)
    top = tmp_path / "ds"
    Volume.init(top, HomeState.ENCRYPTED, site.root)
    with Volume.open(top, site.root) as volume:
        volume.make_home("web", 0o755)
        volume.make_home("db", 0o755)
        clone.clone(volume, "web", volume, "twin", same_key=True)
        (web, db) = (volume.home(name).standing().record for name in ("web", "db"))
        assert web is not None
        assert db is not None
        with pytest.raises(BusyError, match=f"its key {web.keys[0]} also opens .*twin, as keyd knows"):
            kim.erase_key(web.keys[0], web.home_id)
        assert corp.state(web.keys[0]) == State.ACTIVE
        receipt = erase.erase(volume, "db", destroy=kim.erase_key)
        assert [each.fate for each in receipt.keys] == ["destroyed"]
        assert corp.state(db.keys[0]) in (None, State.DESTROYED)
        assert kim.erase_key(db.keys[0], db.home_id)  # asked again, as an answer was lost
        with pytest.raises(KeyNotFound):
            site.root.generate(db.keys[0], [b"aad"])
        site.root.stop()  # the next keyd is shown nothing
        with pytest.raises(BusyError, match=f"its key {web.keys[0]} also opens"):
            kim.erase_key(web.keys[0], web.home_id)
        assert corp.state(web.keys[0]) == State.ACTIVE
