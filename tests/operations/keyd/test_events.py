"""What keyd does goes into its event log before anybody hears of it, or does not happen."""

import base64
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ioflt.audit import log as log_module
from ioflt.audit import reader
from ioflt.audit.chain import Line, Walk
from ioflt.audit.event import from_json
from ioflt.audit.log import file_names
from ioflt.crypto.secret import Secret
from ioflt.errors import ExistsError, IofltError, ProviderLocked, StorageError
from ioflt.keyd.recorder import FOLLOW_S
from ioflt.keyd.service import Service
from ioflt.keys import starter
from ioflt.keys.client import KeyClient
from ioflt.policy import text
from ioflt.policy.model import StoragePolicy
from ioflt.transport import owned
from ioflt.wire.keyd import replies, requests
from tests.daemons import end_keyd


def events(where, *, of_keyd=False):
    """All events, of a log whose chain holds; `of_keyd`: also that it started and stopped."""
    data = b"".join((where.events / name).read_bytes() for name in file_names(where.events))
    *lines, torn = data.split(b"\n")
    walk = Walk()
    assert [finding for line in lines for finding in walk.line(line)] + walk.end(torn) == []
    found = [from_json(Line.from_bytes(line).event) for line in lines]
    return [each for each in found if of_keyd or each.operation not in ("keyd start", "keyd stop")]


def operations(where):
    return [found.operation for found in events(where)]


def test_what_keyd_sees_is_there_with_who_did_it(keys, where):
    key = keys.new_key()
    ((dek, blob),) = keys.generate(key, [b"aad"])
    dek.wipe()
    for _ in range(3):
        (again,) = keys.unwrap([(key, blob, b"aad")])
        again.wipe()
    keys.remove_key(key)
    keys.add_key(key)
    keys.lock("refuse")
    with pytest.raises(ProviderLocked):
        keys.new_key()
    keys.unlock()
    found = events(where)
    assert [e.operation for e in found if not e.operation.startswith("provider")] == [
        "key new",
        "key use",  # the first time only
        "key remove",
        "key add",
        "lock",
        "unlock",
    ]
    assert {(e.by.uid, e.by.pid, e.by.origin) for e in found} == {(os.getuid(), os.getpid(), "local")}
    assert found[0].object.id == str(key)


def test_each_process_that_gets_keys_is_named(keys, where):
    key = keys.new_key()
    keys.generate(key, [b"aad"])
    ask = (
        "import sys, ioflt.keys.client as c, ioflt.types as t\n"
        "for _ in range(2): c.KeyClient().generate(t.KeyRef(*sys.argv[1:]), [b''])\n"
    )
    with subprocess.Popen([sys.executable, "-c", ask, key.provider, key.key_id]) as other:
        pass
    assert other.returncode == 0
    keys.generate(key, [b"aad"])
    assert [e.by.pid for e in events(where) if e.operation == "key use"] == [os.getpid(), other.pid]


def test_a_process_that_comes_again_is_named_again(where):
    """Once keyd has seen that its last connection ended, which is when keyd closes its side."""
    made = None
    for _ in range(2):
        with starter.greet(where, start=True) as link:
            made = made or link.call(requests.NewKey())
            assert isinstance(link.call(requests.Generate(made.key, (b"aad",))), replies.Generated)
            with socket.socket(fileno=os.dup(link.fileno())) as sock:
                sock.settimeout(10)
                sock.shutdown(socket.SHUT_WR)
                assert sock.recv(1) == b""
    assert operations(where).count("key use") == 2


def test_changes_of_policies_and_of_marks_are_there(keys, where):
    silver = StoragePolicy("Silver", "0f0e0d0c-0b0a-4908-8706-050403020101")
    keys.add_policy(text.write([silver]))
    with pytest.raises(ExistsError):  # nothing was changed: there is nothing to tell
        keys.add_policy(text.write([silver]))
    keys.remove_policy("Silver")
    keys.mark_key_holder(silver.id, holds=True)
    created, removed, marked = events(where)
    assert [each.operation for each in (created, removed, marked)] == [
        "policy create",
        "policy remove",
        "vm mark",
    ]
    assert (created.changes[0].path, removed.changes[0].path) == ('policy("Silver")', 'policy("Silver")')
    assert created.changes[0].after == removed.changes[0].before
    assert created.changes[0].after["id"] == silver.id
    assert (marked.object.id, marked.changes[0].before, marked.changes[0].after) == (silver.id, False, True)


def test_start_and_end_of_keyd_are_there(where):
    for end in (lambda keys: keys.stop(), lambda keys: os.kill(keys.status().pid, signal.SIGTERM)):
        with KeyClient.connect() as keys:
            end(keys)
        owned.wait_free(where.keyd_socket)
    found = [
        (each.operation, each.by.who == "keyd", each.reason, each.privilege)
        for each in events(where, of_keyd=True)
    ]
    started, stopped = (
        ("keyd start", True, None, None),
        ("keyd stop", False, None, "Cryptographer.ManageKeys"),
    )
    assert found == [started, stopped, started, ("keyd stop", True, "SIGTERM", None)]


def test_who_follows_is_told_of_events_as_they_come(keys, where):
    first = keys.new_key()
    command = [sys.executable, "-m", "ioflt", "events", "--follow", "--type", "key new", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        assert json.loads(follower.stdout.readline())["object"]["id"] == str(first)
        for _ in range(3):
            key = keys.new_key()
            assert json.loads(follower.stdout.readline())["object"]["id"] == str(key)
        follower.send_signal(signal.SIGINT)
        said, complaint = follower.communicate(timeout=30)
    assert (said, follower.returncode) == ("", 0)
    assert "interrupted" not in complaint


def test_who_follows_by_keyd_waits_for_no_more_than_the_next_event(keys, where):
    first = keys.new_key()
    with KeyClient.connect() as other:
        coming = (each for each in reader.follow(other.next_events, lambda: None))
        keyd, made = next(coming), next(coming)
        assert (keyd.event.operation, made.event.object.id) == ("keyd start", str(first))
        for _ in range(3):
            with ThreadPoolExecutor(1) as pool:
                told = pool.submit(next, coming)
                key = keys.new_key()
                assert told.result(FOLLOW_S / 2).event.object.id == str(key)


def test_a_provider_file_that_changed_shows_at_the_reload(keys, where):
    keys.new_key()
    keys.reload()
    before = len(events(where))
    path = where.providers / "local.json"
    path.write_bytes(path.read_bytes() + b"\n")
    keys.reload()
    path.unlink()
    keys.reload()
    changed, gone = events(where)[before:]
    assert (changed.operation, changed.object.id) == ("provider change", "local")
    assert [change.kind for e in (changed, gone) for change in e.changes] == ["modified", "deleted"]
    assert changed.changes[0].after == gone.changes[0].before


def test_a_keyd_that_is_killed_leaves_what_it_answered_for(where):
    keys = []
    for _ in range(5):
        with KeyClient.connect() as client:
            keys += [str(client.new_key()) for _ in range(10)]
        end_keyd()
    assert [e.object.id for e in events(where) if e.operation == "key new"] == keys


def test_half_a_line_is_set_aside_at_the_start_and_said(where):
    with KeyClient.connect() as client:
        client.new_key()
    end_keyd()
    with (where.events / "0001.jsonl").open("ab") as file:
        file.write(b'{"seq":3,"prev":"00')
    with KeyClient.connect() as client:
        client.new_key()
    repair = next(e for e in events(where) if e.operation == "events repair")
    about = repair.changes[0].after
    assert (about["bytes"], about["lines"], repair.by.who) == (19, 0, "keyd")
    aside = where.events / about["file"]
    assert aside.read_bytes() == b'{"seq":3,"prev":"00'
    assert reader.set_aside(where.events) == []
    aside.write_bytes(b"no trace of it")
    (where.events / "torn-9-0123456789abcdef").touch()
    assert [(each.file, each.fault, each.detail) for each in reader.set_aside(where.events)] == [
        (about["file"], "set aside", "not what its event says: changed since"),
        ("torn-9-0123456789abcdef", "set aside", "no event tells of this file"),
    ]
    aside.unlink()
    (found, _) = reader.set_aside(where.events)
    assert (found.file, found.detail) == (about["file"], "the file of which this event tells is not there")


@pytest.fixture
def full(monkeypatch):
    """The event log's disk is full, when it is told so."""

    class Disk:
        full = False

    def pwrite(fd, data, offset, real=os.pwrite):
        if Disk.full:
            raise OSError(errno.ENOSPC, "")
        return real(fd, data, offset)

    monkeypatch.setattr(log_module.os, "pwrite", pwrite)
    return Disk


@pytest.fixture
def service(where):
    made = Service(where)
    yield made
    made.close()


def test_what_cannot_be_logged_does_not_happen(service, full, where):
    key = service.new_key()
    ((dek, blob),) = service.generate(key, [b"aad"])
    other = service.new_key()
    full.full = True
    for attempt in (
        lambda: service.new_key(),
        lambda: service.generate(other, [b"aad"]),
        lambda: service.remove_key(key),
        lambda: service.recorder.change(required=False, sink=None),
    ):
        with pytest.raises(StorageError) as raised:
            attempt()
        assert raised.value.errno == errno.ENOSPC
    full.full = False
    (again,) = service.unwrap([(key, blob, b"aad")])  # it was not removed
    with dek, again:
        assert dek.view() == again.view()


@pytest.mark.root
def test_a_disk_that_is_full(where):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", where.events], check=True)
    try:
        service = Service(where)
        made: list[str] = []

        def fill() -> None:
            while len(made) < 1000:
                made.append(str(service.new_key()))

        with pytest.raises(StorageError) as raised:
            fill()
        service.close()
        assert raised.value.errno == errno.ENOSPC
        assert [e.object.id for e in events(where)] == made
        assert made
    finally:
        subprocess.run(["umount", where.events], check=True)


def test_a_lock_does_not_wait_for_the_log(service, full, caplog):
    service.new_key()
    full.full = True
    with caplog.at_level("CRITICAL"):
        service.lock("force")
    with pytest.raises(ProviderLocked):
        service.new_key()


def test_events_that_are_not_required_stop_nothing(service, full, where, caplog):
    service.recorder.change(required=False, sink=None)
    full.full = True
    with caplog.at_level("CRITICAL"):
        key = service.new_key()
    full.full = False
    service.close()
    assert operations(where) == ["events set"]
    again = Service(where)
    assert not again.recorder.settings.required
    again.close()
    assert str(key)


def test_what_failed_is_said(service, where):
    with pytest.raises(Exception, match="passphrase"), Secret(bytearray(b"x")) as wrong:
        service.unlock(None, wrong)
    first, second = events(where)
    assert (first.operation, first.outcome) == ("unlock", "done")
    assert (second.operation, second.outcome) == ("unlock", "failed")


def test_no_secret_is_in_the_log(service, where):
    """Of a session that makes, wraps, rewraps and unwraps keys, with a passphrase that is wrong."""
    secrets = [b"a wrong passphrase"]
    old, new = service.new_key(), service.new_key()
    for aad in (b"one", b"two"):
        ((dek, blob),) = service.generate(old, [aad])
        moved = service.rewrap(old, new, blob, aad, aad)
        (again,) = service.unwrap([(new, moved, aad)])
        with dek, again:
            secrets += [bytes(dek.view()), blob, moved]
    text = service.seal_vmx(new, b'displayName = "x"\n', 7)
    with service.config_key(text) as config:
        secrets += [bytes(config.view()), text]
    with pytest.raises(IofltError), Secret(bytearray(secrets[0])) as wrong:
        service.unlock("local", wrong)
    service.close()
    log = b"".join((where.events / name).read_bytes() for name in file_names(where.events))
    assert log.count(b"\n") == len(operations(where)) > 5
    for secret in secrets:
        for form in (secret, secret.hex().encode(), base64.b64encode(secret), secret[:16].hex().encode()):
            assert form not in log


def test_a_killed_writer_under_load_leaves_a_chain_that_holds(where):
    """SIGKILL in the middle of what many connections write."""
    for _ in range(3):
        with KeyClient.connect() as client:
            pid = client.status().pid
        answered = []
        began = threading.Event()

        def ask(answered=answered, began=began):
            try:
                with KeyClient(start=False) as client:
                    while True:
                        answered.append(str(client.new_key()))
                        began.set()
            except Exception:  # it was killed
                began.set()

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        began.wait()
        os.kill(pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
        owned.wait_free(where.keyd_socket)
        with KeyClient.connect():
            pass
        logged = [e.object.id for e in events(where) if e.operation == "key new"]
        assert set(answered) <= set(logged)
        end_keyd()
