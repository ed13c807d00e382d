"""Key providers by keyd, for who has the privilege and may not read their files; and what attackers ask.

root is who asks, for other principals: what keyd decides for them is the same whoever connects.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.crypto import certificates
from ioflt.crypto.secret import Secret
from ioflt.datastore.volume import Volume
from ioflt.errors import (
    BusyError,
    DeniedError,
    ExistsError,
    IofltError,
    KeyNotUsable,
    NotFoundError,
    PeerError,
    ProviderUnavailable,
    UsageError,
)
from ioflt.keyd.providers import MAX_PROVIDERS
from ioflt.keys import starter
from ioflt.keys.client import KeyClient
from ioflt.keys.keyd_providers import KeydProviders
from ioflt.keys.kmip.file import KmipServer
from ioflt.keys.native.store import NativeStore
from ioflt.keys.own_providers import OwnProviders
from ioflt.keys.providers import LoginFile
from ioflt.keys.trial import Step
from ioflt.testing.kmip_server import KmipServer as Server
from ioflt.testing.pykmip import HOST, Authority
from ioflt.transport.tls import fingerprint
from ioflt.types import HomeState
from ioflt.wire.keyd import access as wire
from ioflt.wire.keyd import providers as change
from ioflt.wire.keyd import replies
from tests.authority import authority as authority
from tests.authority import certificate as certificate
from tests.operations.keyd.test_events import events

SERVERS = [KmipServer(host="kms1.example"), KmipServer(host="kms2.example", port=5697)]
TOKEN = b"s.a-token-that-nobody-gets-back"


class Site:
    """A keyd, and clients of it for others than root."""

    def __init__(self, root: KeyClient) -> None:
        self._open = ExitStack()
        self.root = root

    def client(self, who: str, *privileges: str) -> KeyClient:
        """Somebody's connection, who has these privileges of the group Cryptographer on everything."""
        role = f"role-{who}"
        self.root.change_access(wire.CreateRole(role, tuple(f"Cryptographer.{one}" for one in privileges)))
        self.root.change_access(wire.Grant(who, role, wire.Object("everything", "", "everything")))
        made = KeyClient.connect(lambda start: starter.greet(paths.find(), start=start, as_principal=who))
        self._open.callback(made.close)
        return made

    def close(self) -> None:
        self._open.close()


@pytest.fixture
def site(keys: KeyClient) -> Iterator[Site]:
    made = Site(keys)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def kim(site: Site) -> KeyClient:
    """Who administers keys."""
    return site.client("kim", "ManageKeyServers", "ReadKeyServersInfo", "ManageKeys")


@pytest.fixture
def providers(kim: KeyClient) -> KeydProviders:
    return KeydProviders(kim)


@pytest.fixture
def token(tmp_path: Path) -> LoginFile:
    path = tmp_path / "token"
    path.write_bytes(TOKEN)
    path.chmod(0o600)
    return LoginFile("token", path)


def files(where: paths.Paths) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in where.providers.iterdir()}


# What may be done


def test_a_native_one_is_made_chosen_and_removed(
    site: Site, providers: KeydProviders, where: paths.Paths
) -> None:
    with Secret(b"correct horse") as passphrase:
        made = providers.create_native("corp", passphrase)
        assert (made.kind, made.facts["slots"]) == ("native", ("passphrase",))
        site.root.unlock("corp", passphrase)
    assert providers.chosen() is None
    providers.choose("corp", None)
    assert (providers.chosen(), providers.default()) == ("corp", "corp")
    providers.remove(providers.about("corp"), force=False)
    assert files(where) == {}
    with pytest.raises(NotFoundError, match="no provider corp is configured here"):
        providers.about("corp")


def test_a_kmip_one_keeps_its_private_key(providers: KeydProviders, where: paths.Paths) -> None:
    assert providers.create_kmip("one", SERVERS, 5.0, csr=True).startswith("-----BEGIN CERTIFICATE REQUEST")
    (own,) = certificates.read(providers.create_kmip("two", SERVERS[:1], 2.5, csr=False))
    assert own.subject == "CN=two"
    assert set(files(where)) == {"one.json", "one~pending.pem", "two.json", "two.pem"}
    assert {path.stat().st_mode & 0o777 for path in where.providers.iterdir()} == {0o600}
    facts = providers.about("two").facts
    assert facts["servers"] == ("kms1.example:5696",)
    assert "PRIVATE" not in str(facts)


def test_a_transit_one_keeps_its_login(
    providers: KeydProviders, where: paths.Paths, authority: Authority, token: LoginFile
) -> None:
    anchors = authority.path.read_text()
    made = providers.create_transit("bao", ("bao.example", 8200), "transit", "ioflt", token, anchors, 5.0)
    assert (made.facts["server"], made.facts["login"]) == ("bao.example:8200", "token")
    kept = where.providers / "bao~login"
    assert (kept.read_bytes(), kept.stat().st_mode & 0o777) == (TOKEN, 0o600)
    assert json.loads(files(where)["bao.json"])["login"] == {"kind": "token", "file": str(kept)}
    assert TOKEN.decode() not in str(made.facts)
    providers.remove(made, force=False)
    assert files(where) == {}


def test_a_kmip_one_and_its_servers_come_to_trust_each_other(
    site: Site,
    providers: KeydProviders,
    where: paths.Paths,
    authority: Authority,
    certificate: tuple[Path, Path],
) -> None:
    with Server(certificate, authority.path) as server:
        at = [KmipServer(host=HOST, port=server.port)]
        request = providers.create_kmip("corp", at, 5.0, csr=True)
        with pytest.raises(ProviderUnavailable, match="not trusted yet"):
            providers.try_out("corp", print)
        own = providers.install(providers.about("corp"), authority.sign(request))
        assert own.subject == "CN=corp"
        found = providers.look("corp")
        assert list(found) == at
        providers.trust_servers(providers.about("corp"), found)
        assert providers.about("corp").facts["trusts"] == tuple(map(fingerprint, found.values()))
        steps: list[Step] = []
        assert providers.try_out("corp", steps.append)
        assert [one.step for one in steps][-3:] == ["make a key", "get it back", "destroy it"]
        assert site.root.new_key("corp").provider == "corp"
        (anchor,) = providers.trust_authority(providers.about("corp"), authority.path.read_text())
        assert "authority" in anchor.subject
        again = providers.renew(providers.about("corp"), csr=True)
        providers.install(providers.about("corp"), authority.sign(again))
        assert site.root.new_key("corp").provider == "corp"
    told = [one for one in events(where) if one.operation in ("provider trust", "provider test")]
    assert [(one.operation, [change.path for change in one.changes]) for one in told] == [
        ("provider test", []),
        ("provider trust", ["provider.certificate"]),
        ("provider trust", ["provider.trusts"]),
        ("provider test", []),
        ("provider trust", ["provider.trusts"]),
        ("provider trust", ["provider.certificate"]),
    ]
    for key in ("corp.pem", "corp~pending.pem"):
        assert "PRIVATE" not in "".join(map(str, told)), key


def test_a_server_that_says_nothing_is_waited_for_only_so_long(providers: KeydProviders) -> None:
    with socket.create_server((HOST, 0)) as silent:
        at = KmipServer(host=HOST, port=silent.getsockname()[1])
        providers.create_kmip("corp", [at], 0.2, csr=False)
        with pytest.raises(ProviderUnavailable, match=r"no answer within 0\.2 seconds"):
            providers.look("corp")


def test_whom_roots_own_login_is_shown_to_only_root_says(
    site: Site, providers: KeydProviders, where: paths.Paths, authority: Authority, token: LoginFile
) -> None:
    anchors = authority.path.read_text()
    at = ("bao", ("bao.example", 8200), "transit", "ioflt", token, anchors, 5.0)
    OwnProviders(where.providers).create_transit(*at)
    with pytest.raises(DeniedError, match="only root says to which server"):
        providers.trust_authority(providers.about("bao"), anchors)
    providers.log_in_by(providers.about("bao"), token)
    kept = where.providers / "bao~login"
    assert (providers.about("bao").facts["login_file"], kept.read_bytes()) == (str(kept), TOKEN)
    providers.trust_authority(providers.about("bao"), anchors)
    own = OwnProviders(where.providers)
    own.log_in_by(own.about("bao"), token)
    assert not kept.exists()


def test_a_native_one_makes_keys_once_it_was_backed_up(
    site: Site, providers: KeydProviders, where: paths.Paths
) -> None:
    old, new, other = (Secret(word) for word in (b"correct horse", b"battery staple", b"of the backup"))
    about = providers.create_native("corp", old)
    with pytest.raises(KeyNotUsable, match="wrong passphrase"):
        providers.change_passphrase(about, new, other)
    providers.change_passphrase(about, new, old)
    with pytest.raises(BusyError):
        providers.backup(about, other, new)  # it is another by now
    data = providers.backup(providers.about("corp"), other, new)
    providers.mark_backed_up("corp")
    assert providers.about("corp").facts["backed_up"] is True
    site.root.unlock("corp", new)
    assert site.root.new_key("corp").provider == "corp"
    kept = where.state / "elsewhere"
    kept.mkdir(mode=0o700)
    assert NativeStore(kept).restore(data, other).name == "corp"
    told = [one for one in events(where) if one.operation in ("provider backup", "provider passwd")]
    assert [(one.operation, one.privilege, one.outcome) for one in told] == [
        ("provider passwd", "Cryptographer.ManageKeyServers", "done"),
        ("provider passwd", "Cryptographer.ManageKeyServers", "failed"),
        ("provider passwd", "Cryptographer.ManageKeyServers", "done"),
        ("provider backup", "Cryptographer.ManageKeys", "done"),
        ("provider backup", "Cryptographer.ManageKeys", "done"),
    ]
    said = "".join(map(str, events(where)))
    assert not any(word in said for word in ("correct horse", "battery staple", "of the backup"))


def test_who_sets_up_providers_alone_has_no_backup_of_their_keys(site: Site) -> None:
    setter = KeydProviders(site.client("sam", "ManageKeyServers"))
    about = setter.create_native("corp", None)
    for attempt in (
        lambda: setter.backup(about, Secret(b"mine"), None),
        lambda: setter.mark_backed_up("corp"),
    ):
        with pytest.raises(DeniedError, match=r"denied: Cryptographer\.ManageKeys on everything"):
            attempt()


def test_keyd_reads_the_files_again_by_itself(site: Site, providers: KeydProviders) -> None:
    def known() -> list[str]:
        return [one.name for one in site.root.status().providers]

    providers.create_native("corp", None)
    key = site.root.status().providers[0]
    assert (key.name, key.state) == ("corp", "ready")
    providers.remove(providers.about("corp"), force=False)
    providers.create_kmip("corp", SERVERS, 5.0, csr=True)
    assert [one.kind for one in site.root.status().providers] == ["kmip"]
    assert known() == ["corp"]


def test_each_change_is_an_event_of_his_with_what_may_be_known(
    providers: KeydProviders, where: paths.Paths, authority: Authority, token: LoginFile
) -> None:
    with Secret(b"correct horse") as passphrase:
        providers.create_native("own", passphrase)
    providers.create_kmip("corp", SERVERS, 5.0, csr=False)
    providers.create_transit(
        "bao", ("bao.example", 8200), "transit", "ioflt", token, authority.path.read_text(), 5.0
    )
    providers.choose("own", None)
    providers.remove(providers.about("own"), force=False)
    found = [one for one in events(where) if one.operation.startswith("provider")]
    assert [(one.operation, one.object.id) for one in found if one.object is not None] == [
        ("provider create native", "own"),
        ("provider create kmip", "corp"),
        ("provider create transit", "bao"),
        ("provider default", "own"),
        ("provider remove", "own"),
    ]
    assert {(one.by.as_principal, one.privilege, one.outcome) for one in found} == {
        ("user:kim", "Cryptographer.ManageKeyServers", "done")
    }
    assert found[1].changes[0].after == ["kms1.example:5696", "kms2.example:5697"]
    assert (found[3].changes[0].before, found[3].changes[0].after) == (None, "own")
    assert found[4].changes[0].before["slots"] == ["passphrase"]
    said = "".join(map(str, events(where)))
    for secret in (TOKEN.decode(), "correct horse", "PRIVATE"):
        assert secret not in said


# What may not


def everything(client: KeyClient, token: LoginFile) -> list[Callable[[], object]]:
    providers = KeydProviders(client)
    about = change.About("corp", "kmip", bytes(32), {})
    return [
        lambda: providers.create_native("mine", None),
        lambda: providers.create_kmip("mine", SERVERS, 5.0, csr=True),
        lambda: providers.create_transit("mine", ("a", 1), "transit", "k", token, "", 5.0),
        lambda: providers.choose("corp", None),
        lambda: providers.in_use("corp"),
        lambda: providers.look("corp"),
        lambda: providers.try_out("corp", print),
        lambda: providers.trust_servers(about, {}),
        lambda: KeyClient.change_provider(client, change.TrustAuthority("corp", bytes(32), "")),
        lambda: KeyClient.change_provider(client, change.Install("corp", bytes(32), "")),
        lambda: providers.renew(about, csr=True),
        lambda: providers.log_in_by(about, token),
        lambda: providers.remove(about, force=True),
    ]


def test_who_lacks_the_privilege_changes_nothing(site: Site, where: paths.Paths, token: LoginFile) -> None:
    OwnProviders(where.providers).create_kmip("corp", SERVERS, 5.0, csr=True)
    before = files(where)
    rae = site.client("rae", "ReadKeyServersInfo", "ManageKeys", "Access")
    reads = KeydProviders(rae)
    for attempt in everything(rae, token):
        with pytest.raises(DeniedError, match=r"denied: Cryptographer\.ManageKeyServers on everything"):
            attempt()
    assert reads.about("corp").kind == "kmip"
    other = KeydProviders(site.client("olga", "Access", "Encrypt"))
    for attempt in (lambda: other.about("corp"), other.default, other.chosen):
        with pytest.raises(DeniedError, match=r"denied: Cryptographer\.ReadKeyServersInfo on everything"):
            attempt()
    assert files(where) == before


def test_a_name_leads_nowhere_else(
    providers: KeydProviders, where: paths.Paths, token: LoginFile, authority: Authority
) -> None:
    before = sorted(map(str, where.state.rglob("*")))
    for name in ("../corp", "a/b", ".corp", "", "corp~login", "a\0b", "a" * 65, "/etc/x"):
        for attempt in named(providers, name, token, authority.path.read_text()):
            with pytest.raises(UsageError, match="not a provider name"):
                attempt()
    assert sorted(map(str, where.state.rglob("*"))) == before


def named(providers: KeydProviders, name: str, token: LoginFile, anchors: str) -> list[Callable[[], object]]:
    about = change.About(name, "native", bytes(32), {})
    return [
        lambda: providers.create_native(name, None),
        lambda: providers.create_kmip(name, SERVERS, 5.0, csr=False),
        lambda: providers.create_transit(name, ("bao", 1), "transit", "k", token, anchors, 5.0),
        lambda: providers.choose(name, None),
        lambda: providers.remove(about, force=True),
        lambda: providers.about(name),
    ]


def test_what_no_file_of_a_provider_may_say_is_refused(
    providers: KeydProviders, where: paths.Paths, token: LoginFile, authority: Authority
) -> None:
    anchors = authority.path.read_text()
    for host in ("kms.example/../x", "kms\r\nHost: y", "", "a b", "a" * 300):
        with pytest.raises(UsageError):
            providers.create_kmip("mine", [KmipServer(host=host)], 5.0, csr=True)
        with pytest.raises(UsageError):
            providers.create_transit("mine", (host, 1), "transit", "k", token, anchors, 5.0)
    for seconds in (0.0, -1.0, 61.0, float("nan"), float("inf")):
        with pytest.raises(UsageError):
            providers.create_kmip("mine", SERVERS, seconds, csr=True)
    with pytest.raises(UsageError):
        providers.create_kmip("mine", [KmipServer(host=f"kms{n}") for n in range(9)], 5.0, csr=True)
    for mount, key in (("../sys", "k"), ("transit", "../../sys/seal"), ("transit", "a?b"), ("", "k")):
        with pytest.raises(UsageError):
            providers.create_transit("mine", ("bao", 1), mount, key, token, anchors, 5.0)
    for text in ("", "nothing", anchors * 40):
        with pytest.raises(IofltError):
            providers.create_transit("mine", ("bao", 1), "transit", "k", token, text, 5.0)
    assert files(where) == {}


def test_a_private_key_that_a_person_would_have_to_open_is_refused(
    providers: KeydProviders, authority: Authority, token: LoginFile
) -> None:
    token.path.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n-----END ENCRYPTED PRIVATE KEY-----\n")
    login = LoginFile("certificate", token.path)
    with pytest.raises(UsageError, match="under a passphrase"):
        providers.create_transit("mine", ("bao", 1), "transit", "k", login, authority.path.read_text(), 5.0)


def test_no_request_names_a_file_of_the_host(kim: KeyClient) -> None:
    """A field more breaks the protocol, and no kind of provider has one."""
    names = {name for kind in change.Change.__args__ for name in kind.__struct_fields__}
    assert not names & {"module", "file", "path", "pin_file", "environment", "tcti", "program"}
    with pytest.raises((AttributeError, TypeError)):
        change.Login("token", bytearray(b"x"), "cert", "", file="/etc/shadow")  # type: ignore[call-arg]


def test_more_than_a_frame_may_have_is_not_even_read(kim: KeyClient) -> None:
    secret = bytearray(change.MAX_PEM + 1)
    login = change.Login("token", secret, "cert", "")
    asked = change.CreateTransit("mine", change.Server("bao", 1), "transit", "k", login, "", 5.0)
    with pytest.raises(PeerError):
        kim.change_provider(asked)


def test_nobody_makes_more_of_them_than_there_may_be(providers: KeydProviders, where: paths.Paths) -> None:
    for number in range(MAX_PROVIDERS):
        (where.providers / f"p{number}.json").write_text("{}")
    with pytest.raises(UsageError, match="128 providers are made already"):
        providers.create_kmip("one-more", SERVERS, 5.0, csr=True)


def test_one_that_is_there_is_not_made_again(providers: KeydProviders, where: paths.Paths) -> None:
    providers.create_kmip("corp", SERVERS, 5.0, csr=True)
    before = files(where)
    with pytest.raises(ExistsError):
        providers.create_native("corp", None)
    assert files(where) == before


# Several at once


def test_a_certificate_is_trusted_for_a_server_that_it_has(
    providers: KeydProviders, authority: Authority
) -> None:
    providers.create_kmip("corp", SERVERS, 5.0, csr=False)
    (anchor,) = certificates.read(authority.path.read_text())
    stranger = {KmipServer(host="kms3.example"): anchor.der}
    with pytest.raises(UsageError, match=r"has no server kms3\.example"):
        providers.trust_servers(providers.about("corp"), stranger)
    with pytest.raises(IofltError):
        providers.trust_servers(providers.about("corp"), {SERVERS[0]: b"no certificate"})
    (own,) = [providers.create_kmip("other", SERVERS, 5.0, csr=False)]
    with pytest.raises(UsageError, match="belongs to no private key of the provider corp"):
        providers.install(providers.about("corp"), own)


def test_of_two_who_change_a_provider_one_hears_of_the_other(
    providers: KeydProviders, where: paths.Paths
) -> None:
    providers.create_native("corp", None)
    seen = providers.about("corp")
    path = where.providers / "corp.json"
    path.write_text(path.read_text().replace('"backed_up": false', '"backed_up": true'))
    with pytest.raises(BusyError, match="somebody else changed the provider corp meanwhile"):
        providers.remove(seen, force=True)
    providers.choose("corp", None)
    with pytest.raises(BusyError, match="somebody else chose a default provider meanwhile"):
        providers.choose("corp", None)
    providers.remove(providers.about("corp"), force=True)


def test_an_identity_that_is_another_counts_as_a_change(providers: KeydProviders, where: paths.Paths) -> None:
    providers.create_kmip("corp", SERVERS, 5.0, csr=False)
    seen = providers.about("corp")
    (where.providers / "corp.pem").touch()
    with pytest.raises(BusyError):
        providers.remove(seen, force=True)


def test_what_was_changed_otherwise_is_not_told_as_his(providers: KeydProviders, where: paths.Paths) -> None:
    OwnProviders(where.providers).create_kmip("other", SERVERS, 5.0, csr=True)
    providers.create_native("corp", None)
    told = [one for one in events(where) if one.operation.startswith("provider")]
    found = [(one.operation, one.by.pid == os.getpid()) for one in told]
    assert found == [("provider change", False), ("provider create native", True)]


# Keys in use


def test_one_whose_keys_are_in_use_stays(
    site: Site, kim: KeyClient, providers: KeydProviders, where: paths.Paths, tmp_path: Path
) -> None:
    providers.create_native("local", None)
    Volume.init(tmp_path / "ds", HomeState.ENCRYPTED, site.root)
    assert list(providers.in_use("local").datastores) == [str(tmp_path / "ds")]
    assert list(providers.in_use("local").named) == [str(tmp_path / "ds")]
    with pytest.raises(BusyError, match=f"keys of the provider local are in use: {tmp_path}/ds"):
        providers.remove(providers.about("local"), force=False)
    assert "local.json" in files(where)
    providers.remove(providers.about("local"), force=True)
    assert isinstance(kim.status(), replies.Status)
    assert files(where) == {}
