"""A machine whose key administrator is not root: what he does by commands, and what nobody else does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioflt.access.operations import OPERATIONS
from ioflt.testing.kmip_server import KmipServer
from ioflt.testing.pykmip import HOST, Authority
from tests.authority import authority as authority
from tests.authority import certificate as certificate
from tests.machine import ROOT, Machine, User

pytestmark = [pytest.mark.root, pytest.mark.interop("unshare", "setpriv", "nsenter")]

KIM, VERA, ALICE = User("kim", 61011), User("vera", 61012), User("alice", 61013)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine([KIM, VERA, ALICE]) as found:
        found.root("setup", "--separate-duties", "--key-admin", "kim", "--vm-admin", "vera")
        found.root("permission", "grant", "alice", "read-only", "everything")
        done = found.run(KIM, "sh", "-c", "umask 077; cd; echo s.token > token; echo correct horse > secret")
        assert done.returncode == 0, done.stderr
        yield found


def does(machine: Machine, *arguments: str) -> str:
    """What kim does, which succeeds."""
    done = machine.ioflt(KIM, *arguments)
    assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
    return done.stdout


def kinds(machine: Machine) -> dict[str, str]:
    return {one["name"]: one["kind"] for one in json.loads(machine.root("provider", "list", "--json"))}


def test_the_key_administrator_makes_chooses_and_removes_providers(machine: Machine) -> None:
    home = "/mnt/home/kim"
    secret, own = (f"{option}passphrase-file" for option in ("--", "--provider-"))
    does(machine, "provider", "create", "native", "own", secret, f"{home}/secret")
    does(machine, "provider", "passwd", "own", secret, f"{home}/token", own, f"{home}/secret")
    kept = f"{home}/own.p12"
    does(machine, "provider", "backup", "own", kept, secret, f"{home}/secret", own, f"{home}/token")
    assert machine.path(kept).stat().st_uid == KIM.number
    csr = f"{home}/corp.csr"
    does(machine, "provider", "create", "kmip", "corp", "--server", "kms.example", "--csr", "--out", csr)
    ca = (
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=ca",
        "-keyout",
        "/dev/null",
    )
    assert machine.run(KIM, *ca, "-out", f"{home}/ca.pem").returncode == 0
    bao = ("--url", "https://bao.example:8200", "--key", "ioflt", "--ca", f"{home}/ca.pem")
    does(machine, "provider", "create", "transit", "bao", *bao, "--token-file", f"{home}/token")
    assert kinds(machine) == {"bao": "transit", "corp": "kmip", "own": "native"}
    assert "CERTIFICATE REQUEST" in machine.path(csr).read_text()
    for name in ("corp", "bao"):
        does(machine, "provider", "trust", name, "--ca", f"{home}/ca.pem")
    does(machine, "provider", "trust", "bao", "--token-file", f"{home}/token")
    does(machine, "provider", "renew", "corp", f"{home}/corp.pem")
    does(machine, "provider", "trust", "corp", "--certificate", f"{home}/corp.pem")
    tried = machine.ioflt(KIM, "provider", "test", "corp")
    assert (tried.returncode, "kms.example:5696  connect: " in tried.stdout) == (4, True), tried.stderr
    assert json.loads(does(machine, "provider", "default", "own", "--json")) == {
        "provider": "own",
        "chosen": True,
    }
    assert does(machine, "provider", "default") == "own\n"
    for name in ("bao", "corp", "own"):
        does(machine, "provider", "remove", name)
    assert kinds(machine) == {}
    assert list(machine.path("/mnt/ioflt/state/providers").iterdir()) == []


@pytest.mark.parametrize("user", [VERA, ALICE], ids=lambda user: user.name)
def test_nobody_else_does(machine: Machine, user: User) -> None:
    machine.root("provider", "create", "kmip", "corp", "--server", "kms.example")
    for attempt in (
        ("create", "native", "mine"),
        ("create", "kmip", "mine", "--server", "kms.example"),
        ("default", "corp"),
        ("remove", "corp", "--force"),
        ("trust", "corp", "--fingerprint", "AA"),
        ("renew", "corp", f"/mnt/home/{user.name}/corp.pem"),
        ("test", "corp"),
    ):
        done = machine.ioflt(user, "provider", *attempt)
        assert done.returncode == 3, done.stderr
        assert "permission denied: Cryptographer." in done.stderr
    assert kinds(machine) == {"corp": "kmip"}
    machine.root("provider", "remove", "corp")


def test_keys_on_servers_are_found_revoked_and_destroyed(
    machine: Machine, authority: Authority, certificate: tuple[Path, Path]
) -> None:
    home = "/mnt/home/kim"
    with KmipServer(certificate, authority.path) as server:
        at = f"{HOST}:{server.port}"
        does(
            machine, "provider", "create", "kmip", "corp", "--server", at, "--csr", "--out", f"{home}/kms.csr"
        )
        machine.path(f"{home}/kms.crt").write_text(
            authority.sign(machine.path(f"{home}/kms.csr").read_text())
        )
        machine.path(f"{home}/kms-ca.pem").write_text(authority.path.read_text())
        trust = ("--certificate", f"{home}/kms.crt", "--ca", f"{home}/kms-ca.pem")
        does(machine, "provider", "trust", "corp", *trust)
        (key,) = server.add()
        assert does(machine, "key", "locate", "corp", "--state", "active").split() == [key]
        refused = machine.ioflt(KIM, "key", "destroy", "corp", key, "--yes")
        assert (refused.returncode, "end its use first" in refused.stderr) == (4, True), refused.stderr
        for user, attempt in (
            (VERA, ("revoke", "corp", key)),
            (VERA, ("destroy", "corp", key, "--yes")),
            (ALICE, ("locate", "corp")),
        ):
            denied = machine.ioflt(user, "key", *attempt)
            assert (denied.returncode, "denied: Cryptographer." in denied.stderr) == (3, True), denied.stderr
        does(machine, "key", "revoke", "corp", key, "--reason", "superseded")
        does(machine, "key", "destroy", "corp", key, "--yes")
        assert does(machine, "key", "locate", "corp", "--state", "active") == ""
    does(machine, "provider", "remove", "corp")


def test_what_takes_the_files_themselves_is_roots_as_the_table_says(machine: Machine) -> None:
    does(machine, "provider", "create", "native", "own")
    secret = ("--passphrase-file", "/mnt/home/kim/secret")
    module = ("--module", "/etc/passwd", "--token", "t", "--key", "k")
    attempts: dict[str, tuple[str, ...]] = {
        "provider slot add": ("own", "keyfile"),
        "provider slot list": ("own",),
        "provider slot remove": ("own", "keyfile"),
        "provider split": ("own", "--shares", "3", "--threshold", "2", "/mnt/home/kim"),
        "provider restore": ("/mnt/home/kim/token", *secret),
        "provider create pkcs11": ("hsm", *module, *secret),
    }
    assert attempts.keys() == {
        name for name, each in OPERATIONS.items() if each.by_root and name.startswith("provider ")
    }
    for name, arguments in attempts.items():
        done = machine.ioflt(KIM, *name.split(), *arguments)
        assert (done.returncode, "only root does that" in done.stderr) == (3, True), done.stderr
    does(machine, "provider", "remove", "own")


def test_what_opens_a_provider_stays_with_root(machine: Machine) -> None:
    does(machine, "provider", "create", "native", "own")
    does(machine, "provider", "create", "kmip", "corp", "--server", "kms.example")
    for name in ("own.json", "own.key", "corp.json", "corp.pem"):
        path = machine.path(f"/mnt/ioflt/state/providers/{name}")
        if path.exists():
            assert machine.run(KIM, "cat", f"/mnt/ioflt/state/providers/{name}").returncode != 0
            assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (0, 0o600)
    for name in ("own", "corp"):
        does(machine, "provider", "remove", name)


def test_one_whose_keys_protect_something_stays(machine: Machine) -> None:
    """Of what root opened kim has no notes of her own."""
    assert machine.run(ROOT, "mkdir", "-m", "700", "/mnt/work/ds").returncode == 0
    machine.root("datastore", "init", "/mnt/work/ds")
    done = machine.ioflt(KIM, "provider", "remove", "local")
    assert (done.returncode, "keys of the provider local are in use" in done.stderr) == (6, True), done.stderr
    machine.root("keyd", "stop")  # a new one was shown nothing
    machine.root("keyd", "start")
    done = machine.ioflt(KIM, "provider", "remove", "local")
    assert (done.returncode, "unknown whether it has keys of it" in done.stderr) == (6, True), done.stderr
    assert kinds(machine) == {"local": "native"}
