"""The real daemon, started by its client: every request, and everything that may go wrong around it."""

import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ioflt.crypto.rng import new_uuid
from ioflt.crypto.secret import Secret
from ioflt.datastore.vmx import open_sealed
from ioflt.errors import (
    AuthenticationError,
    DeniedError,
    KeyNotFound,
    KeyNotUsable,
    MalformedError,
    PeerError,
    ProviderLocked,
    UsageError,
)
from ioflt.format.record import record as form
from ioflt.format.record.record import DatastoreRecord, HomeRecord
from ioflt.keys import starter
from ioflt.keys.asking import TRIES
from ioflt.keys.client import KeyClient
from ioflt.keys.link import Link
from ioflt.keys.native.store import NativeStore
from ioflt.testing.local_keys import LocalKeys
from ioflt.transport import unix
from ioflt.transport.unix import NotListening
from ioflt.types import HomeState, KeyRef
from ioflt.wire.frame import write_frame
from ioflt.wire.keyd import messages, replies, requests, values
from ioflt.wire.keyd.connection import ClientConnection
from tests.waiting import PATIENCE_S, eventually


@pytest.fixture(params=["daemon", "in process"])
def service(request, tmp_path):
    """The daemon behind its client, and the same service without it."""
    if request.param == "daemon":
        return request.getfixturevalue("keys")
    return LocalKeys(tmp_path)


def wait_for_end(pid):
    """Return when that process is gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], 20)[0]
    finally:
        os.close(pidfd)


def test_a_key_that_is_named_for_new_data(service):
    key = service.new_key()
    service.use_key(key)
    service.remove_key(key)
    with pytest.raises(KeyNotUsable, match="was removed from this host"):
        service.use_key(key)
    service.add_key(key)
    service.use_key(key)
    with pytest.raises(KeyNotFound):
        service.use_key(KeyRef("nobody", key.key_id))
    service.lock("refuse")
    with pytest.raises(ProviderLocked):
        service.use_key(key)


def log(where):
    return (where.logs / "keyd.log").read_text()


class TestRequests:
    def test_data_keys(self, service):
        key = service.new_key()
        (one, blob_one), (two, blob_two) = service.generate(key, [b"disk one", b"disk two"])
        assert len(one) == len(two) == 64
        assert one != two
        found = service.unwrap([(key, blob_one, b"disk one"), (key, blob_two, b"disk two")])
        assert found == [one, two]

    def test_a_batch_has_each_failure_in_its_place(self, service):
        key, other = service.new_key(), service.new_key()
        [(dek, blob)] = service.generate(key, [b"aad"])
        gone = KeyRef("gone", "id")
        found = service.unwrap(
            [
                (key, blob, b"aad"),
                (key, blob, b"another disk"),
                (other, blob, b"aad"),
                (key, blob[:-1] + bytes([blob[-1] ^ 1]), b"aad"),
                (key, b"short", b"aad"),
                (gone, blob, b"aad"),
                (KeyRef(key.provider, "made elsewhere"), blob, b"aad"),
                (key, blob, b"aad"),
            ]
        )
        assert found[0] == found[7] == dek
        assert [type(error) for error in found[1:5]] == [AuthenticationError] * 4
        assert [type(error) for error in found[5:7]] == [KeyNotFound] * 2

    def test_more_than_one_batch(self, service):
        key = service.new_key()
        made = service.generate(key, [b"%d" % number for number in range(values.MAX_BATCH + 1)])
        found = service.unwrap([(key, blob, b"%d" % number) for number, (_, blob) in enumerate(made)])
        assert found == [dek for dek, _ in made]
        assert service.generate(key, []) == service.unwrap([]) == []

    def test_key_states(self, service):
        key, removed = service.new_key(), service.new_key()
        service.generate(key, [b"a"])
        service.generate(removed, [b"a"])
        service.remove_key(removed)
        asked = [key, removed, KeyRef("gone", "id"), KeyRef(key.provider, "made elsewhere")]
        before = int(time.time())
        states = service.key_states(asked)
        assert [state.source for state in states] == ["provider", None, None, None]
        assert [type(state.missing) for state in states] == [
            type(None),
            KeyNotUsable,
            KeyNotFound,
            KeyNotFound,
        ]
        assert [state.since is not None and state.since >= before for state in states] == [False] + [True] * 3
        assert states[0].fetched is not None
        assert (states[0].expires, states[0].sealed) == (None, None)
        again = service.key_states(asked, ask=False)  # what was said last
        assert [(state.source, state.since, str(state.missing)) for state in again] == [
            (state.source, state.since, str(state.missing)) for state in states
        ]
        service.add_key(removed)
        assert service.key_states([removed])[0].missing is None

    def test_a_provider_that_keeps_no_generations(self, service):
        key, home_id = service.new_key(), "0f0e0d0c-0b0a-4908-8706-050403020100"
        service.note_generation([key, KeyRef("gone", "id")], home_id, 7)
        assert service.seen_generation([key], home_id) == (0, True)

    def test_a_forgotten_key_is_asked_for_again(self, service):
        key, other = service.new_key(), service.new_key()
        [(dek, blob)] = service.generate(key, [b"a"])
        service.generate(other, [b"a"])
        for _ in range(2):  # twice is no error
            service.forget_key(key)
        assert [state.cached for state in service.key_states([key, other], ask=False)] == [False, True]
        assert service.unwrap([(key, blob, b"a")]) == [dek]

    def test_a_removed_key_is_not_used_until_it_is_added(self, service):
        key = service.new_key()
        [(dek, blob)] = service.generate(key, [b"a"])
        for _ in range(2):  # twice is no error
            service.remove_key(key)
        with pytest.raises(KeyNotUsable, match="removed from this host"):
            service.generate(key, [b"a"])
        (found,) = service.unwrap([(key, blob, b"a")])
        assert isinstance(found, KeyNotUsable)
        for _ in range(2):
            service.add_key(key)
        assert service.unwrap([(key, blob, b"a")]) == [dek]

    def test_rewrap(self, service):
        old, new = service.new_key(), service.new_key()
        [(dek, blob)] = service.generate(old, [b"a"])
        moved = service.rewrap(old, new, blob, b"a", b"b")
        assert service.unwrap([(new, moved, b"b")]) == [dek]
        with pytest.raises(AuthenticationError):
            service.rewrap(old, new, blob, b"b", b"b")
        with pytest.raises(KeyNotFound):
            service.rewrap(old, KeyRef("gone", "id"), blob, b"a", b"b")

    def test_macs_depend_on_key_kind_and_content(self, service):
        key, other = service.new_key(), service.new_key()
        top = DatastoreRecord(new_uuid(), HomeState.ENCRYPTED, (key,), "a policy")
        home = HomeRecord(
            new_uuid(), top.datastore_id, HomeState.ENCRYPTED, (key, other), (), "a policy", False, None
        )
        clear = replace(home, state=HomeState.CLEAR, keys=(), names=("vm",))
        payloads = [form.encode(one) for one in (top, home, clear, replace(clear, names=("other",)))]
        by = [top.keys, home.keys, top.keys, top.keys]
        sealed = [service.seal_record(keys, None, one) for keys, one in zip(by, payloads, strict=True)]
        assert len({tag for tags in sealed for tag in tags}) == 5
        for keys, payload, tags in zip(by, payloads, sealed, strict=True):
            assert service.check_record(payload, tags, keys) == [True] * len(keys)
            assert service.check_record(payload, [bytes(32), *tags[1:]], keys)[0] is False
        assert service.check_record(payloads[1], sealed[1][::-1], home.keys) == [False, False]
        assert service.check_record(payloads[2], [bytes(32), *sealed[2]], (other, key)) == [False, True]
        gone = KeyRef("gone", "id")
        (missing,) = service.check_record(payloads[2], sealed[2], [gone])
        assert isinstance(missing, KeyNotFound)
        with pytest.raises(KeyNotFound):
            service.seal_record([gone], None, form.encode(replace(top, keys=(gone,))))
        with pytest.raises(UsageError, match="under the keys that it names"):
            service.seal_record([key], None, payloads[1])
        with pytest.raises(MalformedError):
            service.seal_record([key], None, b"{}")

    def test_a_vmx(self, service):
        key = service.new_key()
        text = b'displayName = "web01"\nnvram = "a.nvram"\n'
        sealed = service.seal_vmx(key, text, 2**62 + 5)
        assert b"nvram" not in sealed
        assert open_sealed(service, sealed) == text
        with service.config_key(sealed) as one, service.config_key(sealed, key) as other:
            assert one == other
            assert len(one) == 32
        with pytest.raises(MalformedError):
            service.config_key(text)
        with pytest.raises(AuthenticationError):
            service.config_key(sealed.replace(b"id=%d" % (2**62 + 5), b"id=%d" % (2**62 + 6)))

    def test_status_and_warnings(self, keys, where):
        assert keys.warnings() == []
        assert keys.default_provider() == "local"
        key = keys.new_key()
        keys.generate(key, [b""])
        status = keys.status()
        assert (status.state, status.cached_keys, status.connections) == ("open", 1, 1)
        [local] = status.providers
        assert (local.name, local.kind, local.state, local.backed_up) == ("local", "native", "ready", False)
        [warning] = keys.warnings()
        assert "local was never backed up" in warning
        NativeStore(where.providers).mark_backed_up("local")
        keys.reload()
        assert keys.warnings() == []

    def test_who_uses_a_key(self, keys, where):
        key, other = keys.new_key(), keys.new_key()
        [(_, blob)] = keys.generate(key, [b"a"])
        keys.generate(other, [b""])
        ask = (
            "import sys, ioflt.keys.client as c, ioflt.types as t\n"
            "keys = c.KeyClient(); keys.generate(t.KeyRef(*sys.argv[1:3]), [b''])\n"
            "print(flush=True); input()"
        )
        command = [sys.executable, "-c", ask, key.provider, key.key_id]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as second:
            second.stdout.readline()
            used = {one.key.ref: one for one in keys.cached_keys()}
            assert [user.pid for user in used[key].users] == sorted([os.getpid(), second.pid])
            assert [user.pid for user in used[other].users] == [os.getpid()]
            assert {user.uid for user in used[key].users} == {os.getuid()}
            second.communicate(b"\n")
        eventually(lambda: keys.status().connections == 1)
        used = {one.key.ref: one for one in keys.cached_keys()}
        assert [user.pid for user in used[key].users] == [os.getpid()]
        assert used[key].source == "provider"
        assert keys.unwrap([(key, blob, b"a")])

    def test_the_default_provider(self, keys, where):
        store = NativeStore(where.providers)
        store.create("a", Secret(b"passphrase"))
        assert keys.default_provider() == "a"
        store.create("b", Secret(b"passphrase"))
        with pytest.raises(UsageError, match="name one of a, b"):
            keys.new_key()
        store.create("local")
        assert keys.new_key().provider == "local"

    def test_a_provider_with_a_passphrase(self, keys, where):
        NativeStore(where.providers).create("corp", Secret(b"passphrase"))
        with pytest.raises(ProviderLocked):
            keys.new_key("corp")
        with pytest.raises(ProviderLocked):
            keys.unlock("corp")
        with pytest.raises(KeyNotUsable, match="wrong passphrase"):
            keys.unlock("corp", Secret(b"wrong"))
        with pytest.raises(UsageError):
            keys.unlock(None, Secret(b"passphrase"))
        keys.unlock("corp", Secret(b"passphrase"))
        with pytest.raises(KeyNotUsable, match="until it was backed up"):
            keys.new_key("corp")
        NativeStore(where.providers).mark_backed_up("corp")
        keys.reload()
        key = keys.new_key("corp")
        [(dek, blob)] = keys.generate(key, [b""])
        keys.lock("refuse")
        keys.unlock()
        with pytest.raises(ProviderLocked):
            keys.generate(key, [b""])
        keys.unlock("corp", Secret(b"passphrase"))
        assert keys.unwrap([(key, blob, b"")]) == [dek]

    def test_a_provider_that_was_replaced(self, keys, where):
        key = keys.new_key()
        keys.generate(key, [b""])
        for path in where.providers.iterdir():
            path.unlink()
        NativeStore(where.providers).create("local")
        keys.reload()
        with pytest.raises(KeyNotFound):
            keys.generate(key, [b""])

    def test_a_bad_provider_file_harms_no_other(self, keys, where):
        key = keys.new_key()
        (where.providers / "bad.json").write_bytes(b"{")
        for name in ("not a name", "x" * 200, "b\udcff"):
            (where.providers / f"{name}.json").write_bytes(b"{}")
        states = {provider.name: provider.state for provider in keys.status().providers}
        assert states == {"local": "ready", "bad": "unavailable"}
        assert len(keys.generate(key, [b""])) == 1


class TestLife:
    def test_it_is_not_started_without_being_asked(self, where):
        with KeyClient(start=False) as client, pytest.raises(NotListening):
            client.status()

    def test_stop(self, keys, where):
        pid = keys.status().pid
        keys.stop()
        wait_for_end(pid)
        assert not where.keyd_socket.exists()
        with pytest.raises(NotListening):
            keys.stop()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_it_ends_by_a_signal(self, keys, where, number):
        pid = keys.status().pid
        os.kill(pid, number)
        wait_for_end(pid)
        assert not where.keyd_socket.exists()
        assert f"ends by {number.name}" in log(where)

    def test_killed_it_is_started_again(self, keys):
        key = keys.new_key()
        [(dek, blob)] = keys.generate(key, [b"a"])
        pid = keys.status().pid
        os.kill(pid, signal.SIGKILL)
        wait_for_end(pid)
        assert keys.unwrap([(key, blob, b"a")]) == [dek]
        assert keys.status().pid != pid

    def test_killed_under_many_threads_one_is_started(self, keys):
        key = keys.new_key()
        [(dek, blob)] = keys.generate(key, [b"a"])
        pid = keys.status().pid
        os.kill(pid, signal.SIGKILL)
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda _: keys.unwrap([(key, blob, b"a")]), range(32)))
        assert found == [[dek]] * 32
        assert keys.status().pid != pid

    def test_many_clients_start_one(self, where):
        with ThreadPoolExecutor(4) as threads:
            clients = list(threads.map(lambda _: KeyClient.connect(), range(4)))
        assert len({client.status().pid for client in clients}) == 1
        for client in clients:
            client.close()
        assert log(where).count("serves") == 1

    def test_a_second_one_ends_at_once(self, keys, where):
        second = subprocess.run(
            [sys.executable, "-m", "ioflt.keyd"], capture_output=True, text=True, timeout=30
        )
        assert second.returncode == 1
        assert "another process serves this socket" in second.stderr
        assert len(keys.generate(keys.new_key(), [b""])) == 1

    def test_a_race_of_two(self, where):
        command = [sys.executable, "-m", "ioflt.keyd", "--ready-fd"]
        read, write = os.pipe()
        both = [
            subprocess.Popen([*command, str(write)], pass_fds=(write,), stderr=subprocess.DEVNULL)
            for _ in range(2)
        ]
        os.close(write)
        said = b""
        while b"ready\n" not in said or b"another process" not in said:
            chunk = os.read(read, 4096)
            assert chunk, said
            said += chunk
        os.close(read)
        with KeyClient(start=False) as client:
            client.stop()
        assert sorted(process.wait(PATIENCE_S) for process in both) == [0, 1]

    def test_a_start_that_fails_says_why(self, where, monkeypatch):
        monkeypatch.setenv("IOFLT_HOME", "/proc/nowhere")
        with pytest.raises(UsageError, match="cannot make the directory"):
            KeyClient.connect()

    def test_it_holds_on_to_nothing_of_its_starter(self, keys):
        pid = keys.status().pid
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        for descriptor in (0, 1, 2):
            assert os.readlink(f"/proc/{pid}/fd/{descriptor}") == "/dev/null"
        assert os.getsid(pid) != os.getsid(0)


class TestStrangers:
    def test_a_thousand_connections(self, keys, where):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
        links = []
        try:
            for _ in range(1000):
                links.append(Link.open(where.keyd_socket))  # noqa: PERF401
            assert keys.status().connections == 1001
            for link in links:
                assert isinstance(link.call(requests.GetWarnings()), replies.Warnings)
        finally:
            for link in links:
                link.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert len(keys.generate(keys.new_key(), [b""])) == 1

    @pytest.mark.parametrize(
        "garbage",
        [
            b"GET / HTTP/1.1\r\n\r\n",
            bytes(1000),
            b"\xff" * 1000,
            b"\x01\x00\x00\x00\xc1",
            bytes(write_frame(messages.Request(1, requests.GetStatus()))),
            bytes(ClientConnection().hello()) * 2,
        ],
    )
    def test_garbage_ends_its_own_connection(self, keys, where, garbage):
        before = log(where).count("is cut off")
        with unix.connect(where.keyd_socket, 10) as sock:
            sock.sendall(garbage)
            while read(sock):
                pass
        assert log(where).count("is cut off") == before + 1
        assert f"pid {os.getpid()} of uid {os.geteuid()} is cut off" in log(where)
        assert keys.status().state == "open"

    @pytest.mark.parametrize("then", ["close", "reset", "half"])
    def test_a_client_that_goes_in_the_middle_of_a_request(self, keys, where, then):
        key = keys.new_key()
        connection = ClientConnection()
        sock = unix.connect(where.keyd_socket, 10)
        sock.sendall(connection.hello())
        connection.receive_data(sock.recv(4096))
        connection.next_event()
        request = connection.send(requests.Generate(values.Key.of(key), (b"",) * values.MAX_BATCH))
        sock.sendall(request[: len(request) // 2] if then == "half" else request)
        if then == "reset":
            sock.shutdown(socket.SHUT_RD)
        sock.close()
        eventually(lambda: keys.status().connections == 1)
        assert len(keys.generate(key, [b""] * values.MAX_BATCH)) == values.MAX_BATCH
        assert "a bug" not in log(where)

    def test_a_client_that_is_killed(self, keys, where):
        code = (
            "from ioflt.keys.client import KeyClient\n"
            "c = KeyClient(); k = c.new_key(); print('go', flush=True)\n"
            "while True: c.generate(k, [b''] * 1024)\n"
        )
        client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert client.stdout.readline() == b"go\n"
        client.kill()
        client.wait()
        client.stdout.close()
        eventually(lambda: keys.status().connections == 1)
        assert "a bug" not in log(where)

    def test_requests_of_one_wait_for_no_other(self, keys, where):
        """A connection that sends half a frame holds up nobody."""
        with unix.connect(where.keyd_socket, 10) as slow:
            slow.sendall(b"\x10")
            done = threading.Thread(target=keys.status)
            done.start()
            done.join(PATIENCE_S)
            assert not done.is_alive()

    @pytest.mark.root
    def test_another_user_is_refused(self, keys, where):
        open_up(where)
        where.keyd_socket.chmod(0o666)
        assert "uid 65534 may not" in as_nobody(lambda: refusal(where.keyd_socket))

    @pytest.mark.root
    def test_an_impostor_gets_no_request(self, where):
        """A socket that another user serves: the client hangs up before it asks."""
        open_up(where)
        where.run.chmod(0o777)
        read, write = os.pipe()

        def serve():
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(where.keyd_socket))
                listener.listen()
                os.write(write, b"up")
                with listener.accept()[0] as client:
                    return repr(client.recv(100))

        impostor = start_as_nobody(serve)
        assert os.read(read, 2) == b"up"
        assert "another user" in refusal(where.keyd_socket)
        assert finish(impostor) == "b''"
        os.close(read)
        os.close(write)
        where.keyd_socket.unlink()


class TestSecrecy:
    def test_no_core_dump_no_ptrace_no_new_privileges(self, keys):
        pid = keys.status().pid
        assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
        status = Path(f"/proc/{pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        # An undumpable process's files in /proc belong to root whoever runs it; with its own uid root, the
        # kernel's flag itself is what `coredump` sees.
        assert Path(f"/proc/{pid}/mem").stat().st_uid == 0

    @pytest.mark.root
    def test_kek_memory_cannot_be_read(self, keys):
        keys.generate(keys.new_key(), [b""])
        status = keys.status()
        if status.memory != "memfd_secret":
            pytest.skip("no memfd_secret here")
        regions = [
            line.split()[0]
            for line in Path(f"/proc/{status.pid}/maps").read_text().splitlines()
            if "/secretmem" in line
        ]
        assert len(regions) == 3  # KEKs, KDKs, and the keys of sealed caches
        with open(f"/proc/{status.pid}/mem", "rb", buffering=0) as memory:
            for region in regions:
                memory.seek(int(region.split("-")[0], 16))
                with pytest.raises(OSError, match="Input/output error"):
                    memory.read(32)

    def test_files_and_sockets_are_private(self, keys, where):
        keys.new_key()
        for directory in (where.state, where.run):
            for path in (directory, *directory.rglob("*")):
                mode = path.stat().st_mode
                assert mode & 0o007 == 0, path
                assert path.is_dir() or mode & 0o070 == 0, path

    def test_no_secret_in_the_log(self, keys, where):
        store = NativeStore(where.providers)
        store.create("corp", Secret(b"correct horse"))
        store.mark_backed_up("corp")
        keys.unlock("corp", Secret(b"correct horse"))
        key = keys.new_key("corp")
        with pytest.raises(PeerError):
            keys._call(requests.GetConfigKey(bytes(values.MAX_VMX_HEAD + 1)))
        assert "correct horse" not in log(where)
        assert key.key_id not in log(where)


def read(sock):
    try:
        return sock.recv(4096)
    except ConnectionResetError:
        return b""


def refusal(path):
    """What a client is told."""
    with pytest.raises(DeniedError) as caught:
        Link.open(path)
    return str(caught.value)


def open_up(where):
    """Let other users through to the sockets."""
    for path in (where.run, *where.run.parents):
        if path == Path(tempfile.gettempdir()).parent:
            break
        path.chmod(path.stat().st_mode | 0o011)


def as_nobody(function):
    """The text that a function returns in a process of another user."""
    return finish(start_as_nobody(function))


def start_as_nobody(function):
    """The process and the pipe of `as_nobody`, for `finish`."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(write, function().encode())
        finally:
            os._exit(0)
    os.close(write)
    return child, read


def finish(started):
    """What it returned."""
    child, pipe = started
    with open(pipe, "rb") as said:
        text = said.read().decode()
    os.waitpid(child, 0)
    return text


@pytest.mark.parametrize(("deaths", "serves"), [(3, True), (4, False)])
def test_a_keyd_that_is_killed_while_it_starts_is_started_again(where, monkeypatch, tmp_path, deaths, serves):
    count = tmp_path / "count"
    count.write_text("0")
    program = tmp_path / "keyd"
    program.write_text(
        f"#!/bin/sh\nn=$(cat {count}); echo $((n + 1)) >{count}\n"
        f'[ $n -lt {deaths} ] && kill -KILL $$\nexec {sys.executable} "$@"\n'
    )
    program.chmod(0o700)
    monkeypatch.setattr(starter, "_KEYD", (str(program), *starter._KEYD[1:]))
    with KeyClient() as keys:
        if serves:
            assert keys.status().state == "open"
        else:
            with pytest.raises(PeerError, match="ended without a word"):
                keys.status()
    assert int(count.read_text()) == min(deaths + 1, TRIES)


def test_a_keyd_that_is_killed_in_each_call_is_asked_no_more_than_so_often(where, monkeypatch):
    """Each try meets another keyd, which a second client kills."""
    calls = []

    def call(link, request):
        calls.append(request)
        with link.process() as process:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            assert select.select([process], [], [], 20)[0]
        return call.real(link, request)

    call.real = Link.call
    monkeypatch.setattr(Link, "call", call)
    with KeyClient() as keys, pytest.raises(PeerError):
        keys.status()
    assert len(calls) == TRIES
