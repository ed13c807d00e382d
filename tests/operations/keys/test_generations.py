"""Generations of homes on a key server: what they tell a host that has never seen the home."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.datastore import lifecycle, recrypt
from ioflt.datastore.volume import Volume
from ioflt.errors import ReadOnlyError
from ioflt.format.record.record import HomeRecord
from ioflt.keys.kmip import generations
from ioflt.keys.kmip.provider import KmipProvider
from ioflt.keys.kmip.store import KmipStore
from ioflt.testing.check_provider import check_provider
from ioflt.testing.kmip_server import KmipServer
from ioflt.testing.local_keys import LocalKeys
from ioflt.testing.pykmip import Authority
from ioflt.types import HomeState
from ioflt.wire.kmip.enumerations import Operation
from ioflt.wire.kmip.tags import Tag
from ioflt.wire.kmip.ttlv import Item, Type
from tests import kmip_peers

NAME = "x-ioflt-Generation-"


@pytest.fixture
def server(authority: Authority, certificate: tuple[Path, Path]) -> Iterator[KmipServer]:
    with KmipServer(certificate, authority.path) as running:
        yield running


@pytest.fixture
def keys(tmp_path: Path, ioflt_home: Path, server: KmipServer, authority: Authority) -> Iterator[LocalKeys]:
    """Keys in this process, of the provider corp, which are on the server, and of local."""
    (tmp_path / "keys").mkdir()
    with LocalKeys(tmp_path / "keys") as made:
        kmip_peers.make(KmipStore(tmp_path / "keys" / "state" / "providers"), authority, server.port).close()
        yield made


@pytest.fixture
def top(tmp_path: Path, keys: LocalKeys) -> Path:
    """A datastore with the homes vm and other, encrypted and changed."""
    Volume.init(tmp_path / "ds", HomeState.ENCRYPTED, keys, provider="corp")
    with Volume.open(tmp_path / "ds", keys) as volume:
        for name in ("vm", "other"):
            volume.make_home(name, 0o755)
            (tmp_path / "ds" / name).joinpath("empty").mkdir()
            recrypt.recrypt(volume, name)
    return tmp_path / "ds"


def record_of(volume: Volume, name: str = "vm") -> HomeRecord:
    record = volume.home(name).standing().record
    assert record is not None
    return record


def lose_memory() -> None:
    """From here on this is another host."""
    shutil.rmtree(paths.find().homes)


def on_server(server: KmipServer, record: HomeRecord) -> list[object]:
    return [
        value.value
        for key in record.keys
        for value in server.keys[key.key_id].attributes.get(NAME + record.home_id, [])
    ]


def asked(server: KmipServer) -> int:
    return server.asked(Operation.GET_ATTRIBUTES)


@pytest.mark.allow_log("rolled back, and accepted")
def test_an_older_home_on_another_host(top: Path, keys: LocalKeys, server: KmipServer) -> None:
    with Volume.open(top, keys) as volume:
        old = (top / "vm" / ".ioflt").read_bytes()
        before = record_of(volume)
        recrypt.recrypt(volume, "vm")
        now = record_of(volume)
        assert on_server(server, now) == [str(now.generation)]
    lose_memory()
    with Volume.open(top, keys) as volume:
        assert volume.home("vm").standing().problem is None
    (top / "vm" / ".ioflt").write_bytes(old)
    lose_memory()
    with Volume.open(top, keys) as volume:
        noted = before.generation + 1  # with its key of before: as the change began
        told = f"generation {before.generation}, its key provider tells of {noted}"
        with pytest.raises(ReadOnlyError, match=f"it was rolled back: its record has {told}"):
            volume.home("vm").check_writable()
        with pytest.raises(ReadOnlyError, match="rolled back"):
            lifecycle.decrypt(volume, "vm")
        volume.home("other").check_writable()
    with Volume.open(top, keys, read_only=True) as volume:  # from here on from memory
        assert "this host has seen" in (volume.home("vm").standing().problem or "")
    assert (top / "vm" / ".ioflt").read_bytes() == old
    with Volume.open(top, keys) as volume:
        lifecycle.register(volume, "vm", accept_rollback=True)
        volume.home("vm").check_writable()
        assert on_server(server, record_of(volume)) == [str(record_of(volume).generation)]


def test_a_home_is_asked_for_once(top: Path, keys: LocalKeys, server: KmipServer) -> None:
    lose_memory()
    before = asked(server)
    for read_only in (True, False, False):
        with Volume.open(top, keys, read_only=read_only) as volume:
            for name in ("vm", "other"):
                assert volume.home(name).standing().problem is None
    assert asked(server) == before + 2


def test_homes_that_share_a_key(top: Path, keys: LocalKeys, server: KmipServer) -> None:
    key = keys.new_key("corp")
    with Volume.open(top, keys) as volume:
        for name in ("vm", "other"):
            recrypt.recrypt(volume, name, key_id=key.key_id, provider="corp")
        recrypt.recrypt(volume, "vm", add="local")
        assert [on_server(server, record_of(volume, name)) for name in ("other",)] == [
            [str(record_of(volume, "other").generation)]
        ]
        names = [name for name in server.keys[key.key_id].attributes if name.startswith(NAME)]
        assert sorted(names) == sorted(NAME + record_of(volume, name).home_id for name in ("vm", "other"))


def test_what_others_wrote_there(top: Path, keys: LocalKeys, server: KmipServer) -> None:
    """No count is none, of several the highest counts, and it never goes down."""
    with Volume.open(top, keys) as volume:
        record = record_of(volume)
    name, attributes = NAME + record.home_id, server.keys[record.keys[0].key_id].attributes

    def put(*texts: str) -> None:
        attributes[name] = [Item(Tag.ATTRIBUTE_VALUE, Type.TEXT_STRING, text) for text in texts]

    for texts, highest in (
        (("",), 0),
        (("-5", "0x7", "1e3", "\u0661", "007"), 0),
        ((str(2**63),), 0),
        (("3", str(2**63 - 1)), 2**63 - 1),
        (("2", "12", "7"), 12),
    ):
        put(*texts)
        assert keys.seen_generation(record.keys, record.home_id) == (highest, True)
    attributes[name] = [Item(Tag.ATTRIBUTE_VALUE, Type.INTEGER, 99)]
    assert keys.seen_generation(record.keys, record.home_id) == (0, True)
    put("2", "12", "7")
    keys.note_generation(record.keys, record.home_id, 11)
    assert on_server(server, record) == ["2", "12", "7"]
    keys.note_generation(record.keys, record.home_id, 13)
    assert keys.seen_generation(record.keys, record.home_id) == (13, True)


def test_servers_without_such_attributes_are_not_asked_again(
    tmp_path: Path, keys: LocalKeys, server: KmipServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.behaviour.takes_attributes = False
    Volume.init(tmp_path / "ds", HomeState.ENCRYPTED, keys, provider="corp")
    with Volume.open(tmp_path / "ds", keys) as volume, caplog.at_level("INFO", "ioflt.keys.kmip"):
        volume.make_home("vm", 0o755)
        recrypt.recrypt(volume, "vm")
        recrypt.recrypt(volume, "vm")
        assert volume.home("vm").standing().problem is None
        record = record_of(volume)
    tags = [
        message
        for message in server.seen
        if len(message.items) == 1 and message.items[0].operation == Operation.ADD_ATTRIBUTE
    ]
    assert len(tags) == 1
    assert caplog.text.count("its servers keep no generations of homes") == 1
    before = asked(server)
    assert keys.seen_generation(record.keys, record.home_id) == (0, True)
    assert asked(server) == before


@pytest.mark.allow_log("key server .* of corp")
def test_servers_that_hang(
    top: Path, keys: LocalKeys, server: KmipServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is open goes on, they are left alone for a while, and asked once they answer."""
    with Volume.open(top, keys) as volume:
        mine = keys.new_key("local")
        homes = [record_of(volume, name) for name in ("vm", "other")]
        keys.generate(homes[0].keys[0], [b""])  # so that it is cached
        keys.generate(homes[1].keys[0], [b""])
    monkeypatch.setattr(generations, "LIMIT_S", 0.1)
    lose_memory()
    server.behaviour.hangs = True
    before = asked(server)
    with Volume.open(top, keys) as volume:
        for name in ("vm", "other"):
            assert volume.home(name).standing().problem is None
        recrypt.recrypt(volume, "vm", key_id=mine.key_id, provider="local")
        assert [volume.memory.look(one.home_id).asked for one in homes] == [True, False]
    assert asked(server) == before + 1
    server.behaviour.hangs = False
    corp = keys._keks.registry.get("corp")
    assert isinstance(corp, KmipProvider)
    monkeypatch.setattr(corp.generations, "_silent_until", 0.0)
    with Volume.open(top, keys) as volume:
        assert volume.home("other").standing().problem is None
        assert volume.memory.look(homes[1].home_id).asked
    assert asked(server) == before + 2


def test_the_contract(tmp_path: Path, server: KmipServer, authority: Authority) -> None:
    store = kmip_peers.store_in(tmp_path / "providers")
    kmip_peers.make(store, authority, server.port).close()
    made: list[KmipProvider] = []

    def open_again() -> KmipProvider:
        made.append(KmipProvider(store.load("corp"), store))
        return made[-1]

    check_provider(open_again)
    key_id, home_id = made[0].create(), "0f0e0d0c-0b0a-4908-8706-050403020100"
    made[0].generations.note(key_id, home_id, 3)
    assert made[0].generations.seen(key_id, home_id) == 3
    for provider in made:
        provider.close()
