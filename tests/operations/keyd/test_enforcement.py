"""keyd decides who may do what with whose keys: everyone does what he may, and attackers speak the protocol.

root is who asks, for other principals: what keyd decides for them is the same whoever connects.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.audit import reader
from ioflt.audit.event import text
from ioflt.crypto.rng import new_uuid
from ioflt.crypto.secret import Secret
from ioflt.datastore import check, clone, files, lifecycle, move, recrypt
from ioflt.datastore.deep import home as deep
from ioflt.datastore.header import read_header
from ioflt.datastore.home import Home
from ioflt.datastore.standing import Treatment, stored_as
from ioflt.datastore.volume import Volume
from ioflt.errors import DeniedError, UnshownError, UsageError
from ioflt.format.record import record as form
from ioflt.format.record.record import DatastoreRecord, HomeRecord, Recrypt
from ioflt.format.vmx import sealed
from ioflt.keys import starter
from ioflt.keys.client import KeyClient
from ioflt.types import HomeState, KeyRef
from ioflt.wire.keyd import access as wire
from tests.daemons import end_keyd
from tests.operations.keyd.test_events import events

VMX = b'.encoding = "UTF-8"\ndisplayName = "web"\n'
DISK = b"what nobody else may read".ljust(10_000, b".")


class Site:
    """Two datastores: `ds` encrypts and has the VMs `web` and `db`; `clear` has the clear VM `plain`."""

    def __init__(self, top: Path) -> None:
        self._open = ExitStack()
        self.root = self.client("mount", None)
        self.top = top
        for name, default in (("ds", HomeState.ENCRYPTED), ("clear", HomeState.CLEAR)):
            Volume.init(top / name, default, self.root)
        self.ds = self.volume(self.root, "ds")
        self.clear = self.volume(self.root, "clear")
        for volume, name in ((self.ds, "web"), (self.ds, "db"), (self.clear, "plain")):
            home = volume.make_home(name, 0o755)
            put(home, f"{name}.vmx", VMX)
            put(home, "disk.img", DISK)

    def client(self, operation: str, who: str | None) -> KeyClient:
        """Somebody's connection, for that operation."""
        made = KeyClient.connect(
            lambda start: starter.greet(paths.find(), start=start, operation=operation, as_principal=who)
        )
        self._open.callback(made.close)
        return made

    def volume(self, keys: KeyClient, name: str = "ds") -> Volume:
        return self._open.enter_context(Volume.open(self.top / name, keys))

    def as_(self, who: str, operation: str, name: str = "ds") -> Volume:
        return self.volume(self.client(operation, who), name)

    def grant(self, who: str, on: Volume | Home, *privileges: str) -> None:
        """A role of these privileges, of the group Cryptographer where none is named."""
        role = f"role-{new_uuid()}"
        full = tuple(one if "." in one else f"Cryptographer.{one}" for one in privileges)
        self.root.change_access(wire.CreateRole(role, full))
        self.root.change_access(wire.Grant(who, role, target(on)))

    def close(self) -> None:
        self._open.close()


def target(on: Volume | Home) -> wire.Object:
    if isinstance(on, Volume):
        return wire.Object("datastore", on.record.datastore_id, on.path)
    record = on.standing().record
    assert record is not None
    return wire.Object("vm", record.home_id, on.name)


def record_of(volume: Volume, name: str) -> HomeRecord:
    record = volume.home(name).standing().record
    assert record is not None
    return record


def put(home: Home, name: str, data: bytes) -> None:
    fd = files.create(home, home.fd, name, mode=0o644)
    treatment = stored_as(name) if home.standing().state is HomeState.ENCRYPTED else Treatment.CLEAR
    file = files.open_file(home, fd, treatment, writable=True, place=lambda: (home.fd, home.fd, name))
    try:
        file.write(0, data)
        file.sync(data_only=False)
    finally:
        file.close()


def read(volume: Volume, path: str) -> bytes:
    home = volume.home(os.path.dirname(path))
    name = os.path.basename(path)
    fd = os.open(name, os.O_RDONLY, dir_fd=home.fd)
    file = files.open_file(home, fd, home.treatment(name, fd), writable=False, place=lambda: None)
    try:
        return bytes(file.read(0, file.length))
    finally:
        file.close()


@pytest.fixture
def site(where, tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    try:
        yield made
    finally:
        made.close()


# Everyone does what he may


def encrypt(site: Site, who: str) -> None:
    lifecycle.encrypt(site.as_(who, "vm encrypt", "clear"), "plain")
    assert read(site.clear, "plain/disk.img") == DISK
    assert read(site.clear, "plain/plain.vmx") == VMX
    assert site.clear.home("plain").standing().state is HomeState.ENCRYPTED


def decrypt(site: Site, who: str) -> None:
    lifecycle.decrypt(site.as_(who, "vm decrypt"), "web")
    assert (site.top / "ds/web/disk.img").read_bytes() == DISK


def shallow(site: Site, who: str) -> None:
    before = record_of(site.ds, "web").keys
    recrypt.recrypt(site.as_(who, "vm recrypt"), "web")
    assert not set(record_of(site.ds, "web").keys) & set(before)
    assert read(site.ds, "web/disk.img") == DISK
    assert read(site.ds, "web/web.vmx") == VMX


def own_keys(site: Site, who: str) -> None:
    recrypt.recrypt_datastore(site.as_(who, "datastore recrypt"))
    assert site.ds.root.standing().problem is None


def rewritten(site: Site, who: str) -> None:
    deep.recrypt(site.as_(who, "vm recrypt: --deep"), "web")
    assert read(site.ds, "web/disk.img") == DISK


def cloned(site: Site, who: str) -> None:
    there = site.as_(who, "vm clone")
    clone.clone(there, "web", there, "twin")
    assert read(site.ds, "twin/disk.img") == DISK
    assert read(site.ds, "twin/web.vmx") == VMX


def cloned_with_its_key(site: Site, who: str) -> None:
    there = site.as_(who, "vm clone")
    clone.clone(there, "web", there, "twin", same_key=True)
    assert read(site.ds, "twin/disk.img") == DISK


def moved(site: Site, who: str) -> None:
    keys = site.client("vm move", who)
    move.move(site.volume(keys), "web", site.volume(keys, "clear"), "web")
    assert read(site.clear, "web/disk.img") == DISK


def shown(site: Site, who: str) -> None:
    there = site.as_(who, "mount")
    assert read(there, "web/disk.img") == DISK
    assert read(there, "web/web.vmx") == VMX


def added(site: Site, who: str) -> None:
    put(site.as_(who, "mount").home("web"), "new.img", DISK)
    assert read(site.ds, "web/new.img") == DISK


def made(site: Site, who: str) -> None:
    site.as_(who, "mount").make_home("new", 0o755)
    assert site.ds.home("new").standing().state is HomeState.ENCRYPTED


def registered(site: Site, who: str) -> None:
    (site.top / "ds/web/.ioflt").unlink()
    assert lifecycle.register(site.as_(who, "vm register"), "web") == []
    assert read(site.ds, "web/disk.img") == DISK


def renamed(site: Site, who: str) -> None:
    there = site.as_(who, "vm move", "clear")
    move.move(there, "plain", there, "other")
    assert site.clear.home("other").standing().problem is None


INVENTORY = "VirtualMachine.Inventory"

#: What is done, on what, and the privileges that it takes there and on the other datastore.
ALLOWED: dict[Callable[[Site, str], None], tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    encrypt: ("clear/plain", ("Encrypt",), ()),
    decrypt: ("ds/web", ("Decrypt",), ()),
    shallow: ("ds/web", ("Recrypt",), ()),
    own_keys: ("ds", ("Recrypt",), ()),
    rewritten: ("ds/web", ("Recrypt",), ()),
    cloned: ("ds", ("Clone", f"{INVENTORY}.Create", "EncryptNew"), ()),
    cloned_with_its_key: ("ds", ("Clone", f"{INVENTORY}.Create", "EncryptNew"), ()),
    moved: ("ds/web", ("Migrate", f"{INVENTORY}.Move"), (f"{INVENTORY}.Create", "EncryptNew")),
    shown: ("ds/web", ("Access",), ()),
    added: ("ds/web", ("Access", "AddDisk", "EncryptNew"), ()),
    made: ("ds", (f"{INVENTORY}.Create", "EncryptNew"), ()),
    registered: ("ds", ("RegisterVM", f"{INVENTORY}.Register", "Access"), ()),
    renamed: ("clear/plain", (f"{INVENTORY}.Move",), ()),
}


def place(site: Site, path: str) -> Volume | Home:
    datastore, _, name = path.partition("/")
    volume = site.ds if datastore == "ds" else site.clear
    return volume.home(name) if name else volume


def snapshot(top: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("do", ALLOWED, ids=lambda do: do.__name__)
def test_who_has_the_privileges_does_it(site: Site, do: Callable[[Site, str], None]) -> None:
    on, privileges, there = ALLOWED[do]
    site.grant("alice", place(site, on), *privileges)
    if there:
        site.grant("alice", site.clear, *there)
    do(site, "alice")


@pytest.mark.parametrize(
    ("do", "lacking"),
    [(do, one) for do, (_, here, there) in ALLOWED.items() for one in (*here, *there)],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
def test_who_lacks_one_is_told_which_and_changes_nothing(
    site: Site, do: Callable[[Site, str], None], lacking: str
) -> None:
    on, here, there = ALLOWED[do]
    for where_, privileges in ((place(site, on), here), (site.clear, there)):
        left = [one for one in privileges if one != lacking]
        if left or privileges is here:
            site.grant("alice", where_, *(left or ["System.Read"]))
    before = snapshot(site.top)
    with pytest.raises(DeniedError) as denied:
        do(site, "alice")
    full = lacking if "." in lacking else f"Cryptographer.{lacking}"
    if do is not registered:  # which also removes the record
        assert {path: data for path, data in snapshot(site.top).items() if path in before} == before
    if do not in (registered, moved, cloned_with_its_key, encrypt, shallow, own_keys, rewritten):
        assert full in str(denied.value)


def test_a_denial_names_privilege_and_object(site: Site) -> None:
    site.grant("alice", site.ds, "System.Read")
    there = site.as_("alice", "mount")
    with pytest.raises(DeniedError) as denied:
        read(there, "web/disk.img")
    assert denied.value.message == "permission denied: Cryptographer.Access on web"
    standing = there.home("web").standing()  # which he sees
    assert (standing.state, standing.problem) == (HomeState.ENCRYPTED, None)


def test_the_closest_permission_counts_for_keys(site: Site) -> None:
    site.grant("alice", site.ds, "Access")
    site.grant("alice", site.ds.home("web"), "System.Read")
    there = site.as_("alice", "mount")
    assert read(there, "db/disk.img") == DISK
    with pytest.raises(DeniedError):
        read(there, "web/disk.img")
    site.grant("alice", site.ds.home("web"), "Access")  # and at once
    assert read(there, "web/disk.img") == DISK
    site.grant("alice", site.ds.home("web"), "System.Read")
    with pytest.raises(DeniedError):
        read(there, "web/disk.img")


def test_a_client_shows_a_new_keyd_what_it_showed_the_old_one(site: Site) -> None:
    site.grant("alice", site.ds, "Access")
    there = site.as_("alice", "mount")
    assert read(there, "web/disk.img") == DISK
    end_keyd()
    assert read(there, "web/disk.img") == DISK
    assert read(there, "web/web.vmx") == VMX


def test_each_change_of_a_record_is_an_event(site: Site, where) -> None:
    (before,) = record_of(site.ds, "web").keys
    site.grant("alice", site.ds.home("web"), "Recrypt")
    shallow(site, "alice")
    (after,) = record_of(site.ds, "web").keys
    found = [one for one in events(where) if one.operation == "vm recrypt"]
    assert {one.by.as_principal for one in found} == {"user:alice"}
    assert {one.privilege for one in found} == {"Cryptographer.Recrypt"}
    assert {(one.object.shown, one.datastore.shown) for one in found} == {("web", str(site.top / "ds"))}
    *_, last = found
    said = text(last, "host")
    assert said.startswith(f"Reconfigured web on host in {site.top}/ds.\n \nModified: \n \nconfig.operation:")
    keys = [change for one in found for change in one.changes if change.path == "config.keyId"]
    assert keys[0].before == {"keyId": before.key_id, "providerId": {"id": "local"}}
    assert keys[-1].after == {"keyId": after.key_id, "providerId": {"id": "local"}}


def test_a_denial_is_one_event(site: Site, where) -> None:
    site.grant("alice", site.ds, "System.Read")
    there = site.as_("alice", "mount")
    for _ in range(3):
        with pytest.raises(DeniedError):
            read(there, "web/disk.img")
    (denied,) = [one for one in events(where) if one.outcome == "denied"]
    assert (denied.operation, denied.object.shown, denied.privilege, denied.by.as_principal) == (
        "mount",
        "web",
        "Cryptographer.Access",
        "user:alice",
    )


# Attackers


def wrapped(site: Site, path: str) -> tuple[KeyRef, bytes, bytes]:
    """A wrapped data key, as anybody reads it in the datastore."""
    fd = os.open(site.top / path, os.O_RDONLY)
    try:
        header = read_header(fd)
    finally:
        os.close(fd)
    token = header.tokens[0]
    return token.key, token.blob, token.aad(header.uuid)


def show(keys: KeyClient, site: Site, path: str) -> HomeRecord | DatastoreRecord:
    """Show keyd a record of the datastore."""
    data = (site.top / path / ".ioflt").read_bytes()
    found = form.parse(data)
    assert all(keys.check_record(found.payload, found.tags, found.record.keys, "shown"))
    return found.record


@pytest.mark.parametrize(
    ("privilege", "operation"),
    [
        ("Encrypt", "vm encrypt"),
        ("RegisterVM", "vm register"),
        ("ManageKeys", ""),
        ("ManageKeys", "key drill"),
        ("EncryptNew", "vm import"),
        ("Clone", "mount"),
        ("Access", "vm decrypt"),
    ],
)
def test_no_other_operation_hands_out_data_keys(site: Site, privilege: str, operation: str) -> None:
    site.grant("mallory", site.ds, privilege)
    keys = site.client(operation, "mallory")
    show(keys, site, "ds/web")
    (answer,) = keys.unwrap([wrapped(site, "ds/web/disk.img")])
    assert isinstance(answer, DeniedError)
    with pytest.raises(DeniedError):
        keys.config_key((site.top / "ds/web/web.vmx").read_bytes())


def test_a_key_of_which_no_record_was_shown_is_used_by_nobody(site: Site) -> None:
    """So nobody gets round a permission on a home by not showing that the key is its."""
    site.grant("mallory", site.ds, "Access")
    site.grant("mallory", site.ds.home("web"), "System.Read")
    end_keyd()
    keys = site.client("mount", "mallory")
    item = wrapped(site, "ds/web/disk.img")
    (answer,) = keys.unwrap([item])
    assert isinstance(answer, UnshownError)
    with pytest.raises(UnshownError):
        keys.generate(item[0], [b"a"])
    show(keys, site, "ds/web")
    (answer,) = keys.unwrap([item])
    assert isinstance(answer, DeniedError)
    assert not isinstance(answer, UnshownError)


def test_a_key_of_another_home_in_a_record_of_ones_own(site: Site) -> None:
    site.grant("mallory", site.clear, "Access", "EncryptNew", "RegisterVM", "Clone", "Encrypt", "Recrypt",
               f"{INVENTORY}.Create", f"{INVENTORY}.Register")  # fmt: skip
    stolen = record_of(site.ds, "web").keys[0]
    datastore = site.clear.record.datastore_id
    for operation in ("vm import", "vm register", "vm clone", "vm move", "header restore", ""):
        keys = site.client(operation, "mallory")
        mine = HomeRecord(new_uuid(), datastore, HomeState.ENCRYPTED, (stolen,), (), "", False, None)
        with pytest.raises(DeniedError):
            keys.seal_record((stolen,), None, form.encode(mine))
        own = keys.new_key()
        first = replace(mine, keys=(own,))
        (tag,) = keys.seal_record((own,), None, form.encode(first)) if operation != "vm register" else [None]
        if tag is None:
            continue
        old = form.seal(form.encode(first), [tag])
        for next_ in (
            replace(first, keys=(own, stolen)),
            replace(first, keys=(own,), operation=Recrypt(new_uuid(), (stolen,), (own,))),
        ):
            with pytest.raises(DeniedError):
                keys.seal_record(next_.keys, old, form.encode(replace(next_, generation=2)))
    (answer,) = site.client("mount", "mallory").unwrap([wrapped(site, "ds/web/disk.img")])
    assert isinstance(answer, DeniedError)


def test_a_key_of_ones_own_around_somebody_elses_data_key(site: Site) -> None:
    """Who may recrypt a VM brings its data keys under its own keys, not under his."""
    site.grant("mallory", site.ds.home("web"), "Recrypt")
    site.grant("mallory", site.ds.home("db"), "Access", "Recrypt", "AddDisk", "EncryptNew")
    keys = site.client("vm recrypt", "mallory")
    for name in ("web", "db"):
        show(keys, site, f"ds/{name}")
    key, blob, aad = wrapped(site, "ds/web/disk.img")
    stored = (site.top / "ds/web/web.vmx").read_bytes()
    for own in (*record_of(site.ds, "db").keys, keys.new_key()):
        with pytest.raises(DeniedError):
            keys.rewrap(key, own, blob, aad, aad)
        with pytest.raises(DeniedError):
            keys.rewrap_vmx(stored, [*sealed.peek(stored).keys, own])


def test_an_old_record_takes_nothing_back(site: Site) -> None:
    """The home as it was before: to bring it back takes who may vouch for it."""
    old = (site.top / "ds/web/.ioflt").read_bytes()
    site.grant("mallory", site.ds.home("web"), f"{INVENTORY}.Move", "Recrypt")
    site.ds.home("web").store(replace(record_of(site.ds, "web"), thick=True))
    keys = site.client("mount", "mallory")
    before = form.parse_home(old).record
    with pytest.raises(DeniedError, match="Register"):
        keys.seal_record(before.keys, old, form.encode(replace(before, generation=before.generation + 1)))
    now = (site.top / "ds/web/.ioflt").read_bytes()
    with pytest.raises(UsageError, match="does not follow"):
        keys.seal_record(before.keys, now, form.encode(replace(before, generation=2**62)))
    with pytest.raises(UsageError, match="does not follow"):
        keys.seal_record(before.keys, now, form.encode(before))


def test_a_record_in_the_place_of_one_that_is_said_to_be_missing(site: Site) -> None:
    site.grant("mallory", site.ds, f"{INVENTORY}.Create", "EncryptNew")
    keys = site.client("vm import", "mallory")
    record = replace(show(keys, site, "ds/web"), clear_files=("disk.img",))
    for old in (None, b"nothing", form.seal(form.encode(record), [bytes(32)])):
        with pytest.raises(DeniedError):
            keys.seal_record(record.keys, old, form.encode(record))


@pytest.mark.parametrize("change", ["clear file", "clear", "policy", "other datastore", "operation"])
def test_no_change_of_a_record_without_its_privilege(site: Site, change: str) -> None:
    site.grant("mallory", site.ds.home("web"), "Access")
    keys = site.client("mount", "mallory")
    now = show(keys, site, "ds/web")
    show(keys, site, "ds")
    old = (site.top / "ds/web/.ioflt").read_bytes()
    next_ = {
        "clear file": replace(now, clear_files=("disk.img",)),
        "clear": replace(now, home_id=new_uuid(), state=HomeState.CLEAR, keys=(), names=("web",)),
        "policy": replace(now, policy="another"),
        "other datastore": replace(now, datastore_id=site.clear.record.datastore_id),
        "operation": replace(now, operation=Recrypt(new_uuid(), (), now.keys)),
    }[change]
    by = next_.keys or site.ds.record.keys
    with pytest.raises(DeniedError, match="permission denied"):
        keys.seal_record(by, old, form.encode(replace(next_, generation=now.generation + 1)))


def test_a_clear_record_is_under_its_datastores_keys(site: Site) -> None:
    site.grant("mallory", site.ds, f"{INVENTORY}.Create", "EncryptNew", "Decrypt")
    keys = site.client("vm import", "mallory")
    own = keys.new_key()
    clear = HomeRecord(
        new_uuid(), site.ds.record.datastore_id, HomeState.CLEAR, (), ("web",), "", False, None
    )
    with pytest.raises(UsageError, match="keys of its datastore"):
        keys.seal_record((own,), None, form.encode(clear))


def test_nobody_administers_but_who_may(site: Site) -> None:
    site.grant("mallory", site.ds, "Access", "EncryptNew", "Decrypt")
    keys = site.client("", "mallory")
    key = record_of(site.ds, "web").keys[0]
    for ask in (
        lambda: keys.lock("force"),
        lambda: keys.unlock(),
        lambda: keys.remove_key(key),
        lambda: keys.forget_key(key),
        lambda: keys.add_key(key),
        lambda: keys.reload(),
        lambda: keys.set_key_cache("local", 3),
        lambda: keys.cached_keys(),
        lambda: keys.use_key(KeyRef("local", "x.y")),
        lambda: keys.key_states([KeyRef("local", "x.y")]),
        lambda: keys.mark_key_holder(new_uuid(), holds=True),
        lambda: keys.remove_policy("x"),
        lambda: keys.seal_record(
            (key,), None, form.encode(DatastoreRecord(new_uuid(), HomeState.CLEAR, (key,), ""))
        ),
    ):
        with pytest.raises(DeniedError):
            ask()
    assert keys.key_states([key])[0].missing is None  # of a VM that he sees


def test_who_may_back_up_a_provider_is_told_to(site: Site) -> None:
    everything = wire.Object("everything", "", "everything")
    site.root.change_access(wire.Grant("kim", "key-administrator", everything))
    site.grant("alice", site.ds, "Access")

    def told(who: str | None) -> list[str]:
        return [line for line in site.client("vm list", who).warnings() if "never backed up" in line]

    assert told(None) == told("kim") != []
    assert told("alice") == told("bob") == []


def test_events_are_read_over_keyd_by_who_may(site: Site, where) -> None:
    site.grant("alice", site.ds, "Global.Diagnostics")  # on everything, or not
    with pytest.raises(DeniedError, match=r"permission denied: Global\.Diagnostics on everything"):
        list(site.client("events", "alice").event_files())
    site.root.change_access(wire.Grant("bob", "administrator", wire.Object("everything", "", "everything")))
    got = list(site.client("events", "bob").event_files())
    assert got == list(reader.on_disk(where.events))
    assert reader.verify(got).findings == ()


def test_reports_are_signed_for_who_may_read_events(site: Site, where) -> None:
    site.grant("alice", site.ds, "Global.Diagnostics")  # on everything, or not
    site.root.change_access(wire.CreateRole("auditor", ("Global.Diagnostics",)))
    site.root.change_access(wire.Grant("bob", "auditor", wire.Object("everything", "", "everything")))
    alice, bob = site.client("attest", "alice"), site.client("attest", "bob")
    for ask in (alice.attest_key, lambda: alice.attest(bytes(32))):
        with pytest.raises(DeniedError, match=r"permission denied: Global\.Diagnostics on everything"):
            ask()
    stated, _ = bob.attest(bytes(32))
    assert b"user:bob" in stated
    assert bob.attest_key() == bob.attest_key()
    told = [one for one in events(where) if one.operation == "attest"]
    assert [(one.outcome, one.by.as_principal) for one in told] == [
        ("denied", "user:alice"),
        ("done", "user:bob"),
    ]
    assert bob.access() == site.root.access()  # so the report names all who could read


def test_who_has_nothing_makes_no_keys(site: Site) -> None:
    with pytest.raises(DeniedError):
        site.client("vm import", "mallory").new_key()


def test_check_says_denied_and_not_damaged(site: Site) -> None:
    site.grant("alice", site.ds, "System.Read")
    report = check.run(site.top / "ds", site.client("check", "alice"))
    findings = [entry.finding for entry in report.entries if entry.finding]
    assert findings
    assert all("permission denied: Cryptographer.Access on" in one for one in findings)


def test_what_one_generated_oneself_one_may_open(site: Site) -> None:
    site.grant("alice", site.clear.home("plain"), "Encrypt")
    keys = site.client("vm encrypt", "alice")
    key = keys.new_key()
    ((dek, blob),) = keys.generate(key, [b"a"])
    assert keys.unwrap([(key, blob, b"a")]) == [dek]
    (other,) = site.client("vm encrypt", "mallory").unwrap([(key, blob, b"a")])
    assert isinstance(other, DeniedError)
    assert isinstance(dek, Secret)
