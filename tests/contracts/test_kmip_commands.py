"""The commands of the kmip provider and keyd's use of it, against PyKMIP's server."""

import json
import socket
import time

import pytest

from ioflt.keys.client import KeyClient
from ioflt.testing.pykmip import HOST, PyKmip
from tests import json_spec


@pytest.fixture(scope="module")
def server(authority, certificate, tmp_path_factory):
    running = PyKmip.start(tmp_path_factory.mktemp("kmip"), authority, certificate)
    yield running
    running.kill()


def set_up(ioflt, authority, tmp_path, *ports):
    """From nothing to a provider that works, as README says it."""
    request, signed = tmp_path / "corp.csr", tmp_path / "corp.crt"
    servers = [option for port in ports for option in ("--server", f"{HOST}:{port}")]
    ioflt("provider", "create", "kmip", "corp", *servers, "--csr", "--out", request)
    signed.write_text(authority.sign(request.read_text(), days=365))
    ioflt("provider", "trust", "corp", "--certificate", signed, "--ca", authority.path)


def test_from_nothing_to_keys(ioflt, server, authority, tmp_path):
    set_up(ioflt, authority, tmp_path, server.port)
    tried = ioflt("provider", "test", "corp").stdout.splitlines()
    assert [line.split("  ")[1].partition(":")[0] for line in tried] == [
        "connect",
        "certificate",
        "version",
        "make a key",
        "get it back",
        "destroy it",
    ]
    with KeyClient.connect() as keys:
        made = keys.new_key()
        assert made.provider == "corp"
        ((dek, blob),) = keys.generate(made, [b"aad"])
        assert keys.unwrap([(made, blob, b"aad")]) == [dek]
        keys.lock("refuse")
        keys.unlock()
        assert keys.unwrap([(made, blob, b"aad")]) == [dek]
        assert keys.warnings() == []
        (status,) = keys.status().providers
        assert (status.kind, status.state) == ("kmip", "ready")
    assert made.key_id in json.loads(ioflt("key", "locate", "corp", "--json").stdout)
    assert ioflt("key", "locate", "corp", "--state", "active").stdout.split() == [made.key_id]
    refused = ioflt("key", "destroy", "corp", made.key_id, "--yes", code=4)
    assert "may not be used" in refused.stderr
    assert f"end its use first: ioflt key revoke corp {made.key_id}" in refused.stderr
    assert "--yes" in ioflt("key", "destroy", "corp", made.key_id, code=2).stderr
    told = ioflt("key", "revoke", "corp", made.key_id, "--reason", "superseded", "--json")
    json_spec.check("key revoke", json.loads(told.stdout))
    told = ioflt("key", "destroy", "corp", made.key_id, "--yes", "--json")
    json_spec.check("key destroy", json.loads(told.stdout))
    assert ioflt("key", "locate", "corp").stdout == ""
    events = json.loads(ioflt("events", "--json").stdout)
    about_key = [each for each in events if each["object"] and each["object"]["id"] == str(made)]
    assert [
        (each["operation"], each["outcome"], [change["after"] for change in each["changes"]])
        for each in about_key
        if each["operation"] in ("key revoke", "key destroy") and not each["reported"]
    ] == [
        ("key destroy", "done", ["destroyed"]),
        ("key destroy", "failed", ["destroyed"]),
        ("key revoke", "done", ["revoked, superseded"]),
        ("key destroy", "done", ["destroyed"]),
    ]


def test_health_asks_the_servers(ioflt, authority, certificate, tmp_path):
    """Also while keys are cached, with which all goes on."""
    (tmp_path / "kmip").mkdir()
    running = PyKmip.start(tmp_path / "kmip", authority, certificate)
    try:
        set_up(ioflt, authority, tmp_path, running.port)
        ioflt("datastore", "init", tmp_path / "ds")
        assert json.loads(ioflt("health", "--json").stdout)["sound"]
        signed = tmp_path / "corp.crt"
        signed.write_text(authority.sign((tmp_path / "corp.csr").read_text(), days=10))
        ioflt("provider", "trust", "corp", "--certificate", signed)
        (near,) = json.loads(ioflt("health", "--json", code=13).stdout)["problems"]
        assert near["kind"] == "certificate"
        assert near["mend"] == "ioflt provider renew corp FILE"
    finally:
        running.kill()
    silent, _ = json.loads(ioflt("health", "--json", code=13).stdout)["problems"]
    assert (silent["kind"], silent["subject"]) == ("provider", "corp")
    assert "Connection refused" in silent["problem"]


def test_a_vm_opens_after_a_restart_with_one_server_of_two(ioflt, authority, tmp_path):
    (tmp_path / "kmip").mkdir()
    certificate = authority.issue("pair", hosts=(HOST,))
    servers = [PyKmip.start(tmp_path / "kmip", authority, certificate, name) for name in ("one", "two")]
    try:
        set_up(ioflt, authority, tmp_path, *(server.port for server in servers))
        vm = tmp_path / "ds" / "web01"
        vm.mkdir(parents=True)
        (vm / "web01.img").write_bytes(b"plaintext" * 10_000)
        ioflt("datastore", "init", tmp_path / "ds")
        ioflt("vm", "register", "--clear", vm)
        ioflt("vm", "encrypt", vm)
        ioflt("keyd", "stop")
        servers[0].kill()
        ioflt("check", tmp_path / "ds")
        ioflt("keyd", "stop")
        servers[1].kill()
        gone = ioflt("vm", "decrypt", vm, code=4)
        for server in servers:
            assert f"{HOST}:{server.port}: Connection refused" in gone.stderr
        assert "hint: try each step: ioflt provider test corp" in gone.stderr
    finally:
        for server in servers:
            server.kill()


def test_an_erased_vm_takes_its_key_along(ioflt, server, authority, tmp_path):
    set_up(ioflt, authority, tmp_path, server.port)
    top, receipt = tmp_path / "ds", tmp_path / "receipt.json"
    ioflt("datastore", "init", top)
    for name in ("web", "db", "mail"):
        (top / name).mkdir()
        (top / name / "disk.img").write_bytes(b"plaintext" * 10_000)
        ioflt("vm", "register", "--clear", top / name)
        ioflt("vm", "encrypt", top / name)
    ioflt("vm", "clone", "--same-key", top / "web", top / "twin")
    (key,) = json.loads(ioflt("vm", "show", top / "web", "--json").stdout)["keys"]

    def known():
        return key.removeprefix("corp:") in json.loads(ioflt("key", "locate", "corp", "--json").stdout)

    refused = ioflt("vm", "erase", top / "web", "--yes", "--destroy-key", code=6)
    assert f"its key {key} also opens {top}/twin" in refused.stderr
    assert "--yes" in ioflt("vm", "erase", top / "web", "--destroy-key", code=2).stderr
    kept = ioflt("vm", "erase", top / "web", "--yes")
    assert f"{key}: kept, it also opens {top}/twin" in kept.stderr
    assert known()
    ioflt("vm", "erase", top / "twin", "--yes", "--destroy-key", "--receipt", receipt)
    assert json.loads(receipt.read_text())["keys"] == [{"key": key, "fate": "destroyed", "also_protects": []}]
    assert not known()
    status = json.loads(ioflt("key", "status", key, "--json").stdout)
    assert (status["cached"], status["reason"]) == (False, "KeyStateMissingInKMS")
    ioflt("check", top)  # the other VMs are as they were

    # its key stays unless asked for: then how to destroy it by itself is said
    (kept_key,) = json.loads(ioflt("vm", "show", top / "mail", "--json").stdout)["keys"]
    left = ioflt("vm", "erase", top / "mail", "--yes").stderr
    named = kept_key.replace(":", " ", 1)
    assert f"{kept_key}: stays on its key servers, as --destroy-key was not given" in left
    assert f"ioflt key revoke {named}, ioflt key destroy {named}" in left
    ioflt("key", "revoke", *named.split())
    ioflt("key", "destroy", *named.split(), "--yes")

    # interrupted between its key and its files, it is locked and can be erased still
    (key,) = json.loads(ioflt("vm", "show", top / "db", "--json").stdout)["keys"]
    ioflt("key", "revoke", "corp", key.removeprefix("corp:"))
    ioflt("key", "destroy", "corp", key.removeprefix("corp:"), "--yes")
    ioflt("keyd", "stop")
    locked = ioflt("vm", "erase", top / "db", "--yes", "--destroy-key", code=4)
    assert "hint: without --destroy-key no key is needed" in locked.stderr
    ioflt("vm", "erase", top / "db", "--yes")
    assert json.loads(ioflt("vm", "list", top, "--json").stdout) == []


def test_keys_are_located_by_attributes_of_any_type(ioflt, server, authority, tmp_path):
    set_up(ioflt, authority, tmp_path, server.port)
    ioflt("datastore", "init", tmp_path / "ds")
    key = json.loads(ioflt("key", "list", tmp_path / "ds", "--json").stdout)[0]["key"]

    def located(*attributes):
        options = [word for one in attributes for word in ("--attribute", one)]
        return json.loads(ioflt("key", "locate", "corp", *options, "--json").stdout)

    key_id = key.removeprefix("corp:")
    assert key_id in located("State=Active", "Cryptographic Algorithm=AES", "Cryptographic Length=256")
    assert key_id not in located("Cryptographic Algorithm=AES", "Cryptographic Length=128")
    refused = ioflt("key", "locate", "corp", "--attribute", "State=asleep", code=2)
    assert "no State: 'asleep'" in refused.stderr


def test_a_vm_gets_no_key_that_is_deactivated(ioflt, server, authority, tmp_path):
    set_up(ioflt, authority, tmp_path, server.port)
    top = tmp_path / "ds"
    ioflt("datastore", "init", top)
    for name in ("web", "db"):
        (top / name).mkdir()
        (top / name / "disk.img").write_bytes(b"plaintext" * 10_000)
        ioflt("vm", "register", "--clear", top / name)
        ioflt("vm", "encrypt", top / name)
    web, db = (json.loads(ioflt("vm", "show", top / name, "--json").stdout)["keys"] for name in ("web", "db"))
    key_id = web[0].removeprefix("corp:")
    ioflt("key", "revoke", "corp", key_id)
    refused = ioflt("vm", "recrypt", top / "db", "--key", key_id, code=4)
    assert f"the key {key_id} of corp may protect nothing new: it is Deactivated" in refused.stderr
    assert json.loads(ioflt("vm", "show", top / "db", "--json").stdout)["keys"] == db
    ioflt("vm", "recrypt", top / "web", "--key", db[0].removeprefix("corp:"))
    assert json.loads(ioflt("vm", "show", top / "web", "--json").stdout)["keys"] == db


def test_pinned_by_fingerprint(ioflt, server, authority, tmp_path):
    set_up(ioflt, authority, tmp_path, server.port)
    wrong = ":".join(["00"] * 32)
    shown = ioflt("provider", "trust", "corp", "--fingerprint", wrong, code=3)
    found = next(line.split()[1] for line in shown.stdout.splitlines() if line.startswith("SHA-256"))
    assert "nobody is there" in ioflt("provider", "trust", "corp", code=2).stderr
    told = ioflt("provider", "trust", "corp", "--fingerprint", found.lower(), "--json")
    trust = json.loads(told.stdout)
    json_spec.check("provider trust", trust)
    assert [(one["server"], one["sha256"]) for one in trust["servers"]] == [(f"{HOST}:{server.port}", found)]
    json_spec.check("provider test", json.loads(ioflt("provider", "test", "corp", "--json").stdout))


def test_a_certificate_that_expires_is_warned_of_and_renewed(ioflt, server, authority, tmp_path):
    set_up(ioflt, authority, tmp_path, server.port)
    request, signed = tmp_path / "new.csr", tmp_path / "new.crt"

    def renew(days):
        request.unlink(missing_ok=True)
        ioflt("provider", "renew", "corp", request, "--csr")
        signed.write_text(authority.sign(request.read_text(), days=days))
        ioflt("provider", "trust", "corp", "--certificate", signed)

    renew(10)
    warned = ioflt("datastore", "init", tmp_path / "one").stderr
    assert "warning: the client certificate of the provider corp expires on" in warned
    assert "ioflt provider renew corp FILE" in warned
    renew(60)
    assert "warning" not in ioflt("datastore", "init", tmp_path / "two").stderr


def test_a_server_that_hangs(ioflt, authority, tmp_path):
    with socket.create_server((HOST, 0)) as silent:
        set_up(ioflt, authority, tmp_path, silent.getsockname()[1])
        start = time.monotonic()
        done = ioflt("provider", "test", "corp", code=4)
        assert time.monotonic() - start < 5 + 20  # the second part is for a busy machine
        assert "connect: no answer within 5 seconds" in done.stdout
        assert "hint: the lines above" in done.stderr


def test_the_native_provider_is_tried_too(ioflt, tmp_path):
    ioflt("datastore", "init", tmp_path / "ds")  # makes the provider local
    steps = json.loads(ioflt("provider", "test", "local", "--json").stdout)
    assert [step["step"] for step in steps] == ["make a key", "get it back"]
    refused = ioflt("key", "locate", "local", code=2)
    assert "has no key servers" in refused.stderr
