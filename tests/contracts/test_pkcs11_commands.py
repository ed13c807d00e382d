"""The commands of the pkcs11 provider and keyd's use of it, against SoftHSM2."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ioflt.keys.client import KeyClient
from tests import json_spec
from tests.process_memory import memory_holds
from tests.token_peers import MODULE, PIN, SoftHsm, build_moody_module


@pytest.fixture(scope="module")
def hsm(tmp_path_factory):
    return SoftHsm.make(tmp_path_factory.mktemp("hsm") / "softhsm", "ioflt")


@pytest.fixture
def pin_file(tmp_path):
    path = tmp_path / "pin"
    path.touch(0o600)
    path.write_text(f"{PIN}\n")
    return path


def creating(hsm, name, *more, module=MODULE, **variables):
    given = [f"--variable={name}={value}" for name, value in (hsm.environment | variables).items()]
    options = ("--module", module, "--token", "ioflt", "--key", "ioflt", *given)
    return ("provider", "create", "pkcs11", name, *options, *more)


def children(pid):
    """The processes that it started, which still run."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] + [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        if task.name != str(pid)
        for child in (task / "children").read_text().split()
    ]


def test_from_nothing_to_a_vm_on_another_host(ioflt, hsm, pin_file, tmp_path, short_tmp):
    create = creating(hsm, "corp", "--pin-file", pin_file)
    missing = ioflt(*create, code=4).stderr
    assert "the token of corp: it has no AES key ioflt" in missing
    assert "hint: nothing was made; with --generate" in missing
    assert ioflt("provider", "list", "--json").stdout == "[]\n"
    assert "(made, AES-256, never leaves it)" in ioflt(*create, "--generate").stderr
    ioflt("provider", "remove", "corp")
    made = json.loads(ioflt(*create, "--json").stdout)
    json_spec.check("provider create pkcs11", made)
    assert (made["provider"], made["token"], made["key"]) == ("corp", "ioflt", "ioflt")
    assert hsm.keys("ioflt") == ["ioflt"]
    events = json.loads(ioflt("events", "--type", "provider create pkcs11", "--json").stdout)
    assert [change["after"] for change in events[-1]["changes"]] == ["pkcs11", "ioflt"]
    tried = ioflt("provider", "test", "corp").stdout.splitlines()
    assert [line.partition(":")[0] for line in tried] == [
        *("load the module", "find the token", "log in", "find the key"),
        *("make a key", "get it back"),
    ]
    vm = tmp_path / "ds" / "web01"
    vm.mkdir(parents=True)
    (vm / "web01.img").write_bytes(b"plaintext" * 10_000)
    configuration = '.encoding = "UTF-8"\ndisplayName = "web01"\nscsi0:0.fileName = "web01.vmdk"\n'
    (vm / "web01.vmx").write_text(configuration)
    ioflt("datastore", "init", tmp_path / "ds")
    ioflt("vm", "register", "--clear", vm)
    ioflt("vm", "encrypt", vm)
    with KeyClient.connect() as keys:
        (status,) = keys.status().providers
        assert (status.kind, status.state, status.slots) == ("pkcs11", "ready", ("pin-file",))
        assert keys.warnings() == []
    assert "is in its token" in ioflt("provider", "backup", "corp", tmp_path / "out", code=2).stderr
    assert "are in use" in ioflt("provider", "remove", "corp", code=6).stderr
    ioflt("provider", "default", "corp")
    ioflt("keyd", "stop")

    elsewhere = short_tmp / "elsewhere"
    elsewhere.mkdir()
    try:
        assert (
            "no provider corp is configured here"
            in ioflt("check", tmp_path / "ds", code=13, home=elsewhere).stdout
        )
        assert "(AES-256, never leaves it)" in ioflt(*create, "--generate", home=elsewhere).stderr
        assert hsm.keys("ioflt") == ["ioflt"]  # no second one
        ioflt("check", tmp_path / "ds", home=elsewhere)
        ioflt("vm", "decrypt", vm, home=elsewhere)
        assert (vm / "web01.img").read_bytes() == b"plaintext" * 10_000
        assert (vm / "web01.vmx").read_text() == configuration
        ioflt("vm", "encrypt", vm, home=elsewhere)
    finally:
        ioflt("keyd", "stop", home=elsewhere)

    hsm.tokens.rename(hsm.directory / "away")
    hsm.tokens.mkdir()
    try:
        gone = ioflt("vm", "decrypt", vm, code=4).stderr
        assert "the token of corp: no token ioflt is there" in gone
        assert "hint: try each step: ioflt provider test corp" in gone
        tried = ioflt("provider", "test", "corp", code=4)
        assert tried.stdout.splitlines()[-1] == "find the token: the token of corp: no token ioflt is there"
    finally:
        hsm.tokens.rmdir()
        (hsm.directory / "away").rename(hsm.tokens)
    ioflt("vm", "decrypt", vm)  # by itself, as the token is back


def test_a_pin_that_a_person_gives(ioflt, hsm, pin_file, tmp_path):
    made = ioflt(*creating(hsm, "hand", "--passphrase-file", pin_file, "--generate")).stderr
    assert "it opens by: ioflt keyd unlock hand" in made
    waits = ioflt("datastore", "init", tmp_path / "ds", code=4).stderr
    assert waits == "ioflt: the provider hand waits for its PIN\nhint: ioflt keyd unlock hand\n"
    wrong = tmp_path / "wrong"
    wrong.touch(0o600)
    wrong.write_text("wrong")
    refused = ioflt("keyd", "unlock", "hand", "--passphrase-file", wrong, code=4).stderr
    assert "the token of hand: wrong PIN" in refused
    ioflt("keyd", "unlock", "hand", "--passphrase-file", pin_file)
    ioflt("datastore", "init", tmp_path / "ds")
    with KeyClient.connect() as keys:
        pid = keys.status().pid
    (worker,) = children(pid)
    for process in (pid, worker):
        for name in ("cmdline", "environ"):
            assert PIN.encode() not in Path(f"/proc/{process}/{name}").read_bytes()
    ioflt("keyd", "lock")
    assert children(pid) == []
    ioflt("keyd", "unlock")
    assert "waits for its PIN" in ioflt("check", tmp_path / "ds", code=13).stdout
    ioflt("keyd", "unlock", "hand", "--passphrase-file", pin_file)
    ioflt("check", tmp_path / "ds")


@pytest.mark.root
def test_after_a_lock_no_pin_is_in_keyds_memory(ioflt, hsm, pin_file, tmp_path):
    ioflt(*creating(hsm, "hand", "--passphrase-file", pin_file, "--generate"))
    with KeyClient.connect() as keys:
        pid = keys.status().pid
    ioflt("keyd", "unlock", "hand", "--passphrase-file", pin_file)
    ioflt("datastore", "init", tmp_path / "ds")
    needle = PIN.encode()
    assert memory_holds(pid, needle) == [True]
    ioflt("keyd", "lock")
    assert memory_holds(pid, needle) == [False]


@pytest.mark.parametrize("busy", [False, True])
def test_a_worker_ends_with_keyd(ioflt, hsm, pin_file, tmp_path, busy):
    moods = tmp_path / "moods"
    moods.mkdir()
    module = build_moody_module(tmp_path)
    ioflt(*creating(hsm, "corp", "--pin-file", pin_file, "--generate", module=module, MOODY=moods))
    ioflt("datastore", "init", tmp_path / "ds")
    with KeyClient.connect() as keys:
        pid = keys.status().pid
    (worker,) = children(pid)
    ended = os.pidfd_open(worker)
    try:
        if busy:
            os.mkfifo(moods / "hangs")
            (moods / "C_Decrypt").write_text("hang")
            with subprocess.Popen(
                [sys.executable, "-m", "ioflt", "provider", "test", "corp"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as asking:
                (moods / "hangs").read_text()
                asking.kill()  # it would start another keyd
        os.kill(pid, signal.SIGKILL)
        assert select.select([ended], [], [], 60)[0]
    finally:
        os.close(ended)
