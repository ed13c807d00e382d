"""A monitor that hangs, lies, or goes in the middle of a command: one clear error, in time."""

import json
import os
import socket

import pytest

from ioflt.backup import qmp
from ioflt.backup.qmp import GuestAgent, Monitor, Refused
from ioflt.cli.hints import hint_for
from ioflt.errors import DeniedError, PeerError
from ioflt.transport.unix import NotListening
from ioflt.wire.qmp.messages import Event
from tests.qmp_peers import GREETING, Impostor


@pytest.fixture
def path(tmp_path):
    return tmp_path / "qmp"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(qmp, "GREETING_S", 0.2)


def flood(peer):
    while True:
        peer.say(*[{"event": "RTC_CHANGE"}] * 1000)


@pytest.mark.root
def test_the_socket_of_another_user(path):
    path.parent.chmod(0o755)
    with Impostor(path, lambda peer: peer.wait()):
        path.chmod(0o600)
        os.seteuid(65534)
        try:
            with pytest.raises(DeniedError, match="this socket of QEMU's") as caught:
                Monitor(path)
        finally:
            os.seteuid(0)
    assert str(hint_for(caught.value)).endswith(f"ls -l {path}")


BEFORE = {
    "silence": (lambda peer: peer.wait(), "does not answer by a greeting"),
    "an event first": (lambda peer: peer.say({"event": "STOP"}), "is no QMP socket"),
    "another protocol": (lambda peer: peer.socket.sendall(b"220 ready\r\n"), "breaks its protocol"),
    "a line without end": (
        lambda peer: peer.socket.sendall(b" " * (5 << 20)),
        "breaks its protocol: a line of",
    ),
    "nothing": (lambda peer: None, "ended the connection"),
    "half a greeting": (
        lambda peer: peer.socket.sendall(json.dumps(GREETING).encode()[:40]),
        "breaks its protocol",
    ),
    "no answer to qmp_capabilities": (
        lambda peer: (peer.say(GREETING), peer.wait()),
        "does not answer to qmp_cap",
    ),
}

AFTER = {
    "silence": (lambda peer: peer.wait(), "does not answer to stop within 0.2 s"),
    "a flood of events": (flood, "does not answer to stop within 0.2 s"),
    "another id": (
        lambda peer: peer.say({"return": {}, "id": peer.hear()["id"] + 1}),
        "answers stop with something",
    ),
    "no id": (lambda peer: (peer.hear(), peer.say({"return": {}})), "answers stop with something else"),
    "another greeting": (lambda peer: (peer.hear(), peer.say(GREETING)), "answers stop with something else"),
    "the end": (lambda peer: peer.hear(), "ended the connection to stop"),
    "half an answer": (lambda peer: (peer.hear(), peer.socket.sendall(b'{"return"')), "breaks its protocol"),
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("script", "error"), BEFORE.values(), ids=BEFORE)
def test_what_is_no_monitor(path, script, error):
    with Impostor(path, script), pytest.raises(PeerError, match=error) as raised:
        Monitor(path)
    assert raised.value.file == str(path)


@pytest.mark.parametrize(("script", "error"), AFTER.values(), ids=AFTER)
def test_a_monitor_that_goes_wrong(path, script, error):
    def whole(peer):
        peer.greet()
        script(peer)

    with Impostor(path, whole), Monitor(path) as monitor:
        with pytest.raises(PeerError, match=error):
            monitor.ask("stop", timeout=0.2)
        assert monitor.broken
        with pytest.raises(PeerError):  # and nothing more is sent
            monitor.ask("cont")


def test_nobody_listens(path):
    with pytest.raises(NotListening):
        Monitor(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.close()
    with pytest.raises(NotListening):
        Monitor(path)


def test_a_refusal_leaves_the_connection_whole(path):
    def script(peer):
        peer.greet()
        command = peer.hear()
        peer.say({"error": {"class": "DeviceNotFound", "desc": "no such"}, "id": command["id"]})
        assert peer.answer(7)["arguments"] == {"id": "d"}
        peer.wait()

    with Impostor(path, script), Monitor(path) as monitor:
        with pytest.raises(Refused, match="QEMU refuses device_del: no such") as raised:
            monitor.ask("device_del", {"id": "d"})
        assert raised.value.kind == "DeviceNotFound"
        assert monitor.ask("x", {"id": "d"}) == 7


def test_events_are_kept_until_asked_for(path):
    def script(peer):
        peer.greet()
        peer.say({"event": "A"}, {"event": "B", "data": {"n": 1}})
        peer.answer({})
        peer.say({"event": "B", "data": {"n": 2}})
        peer.wait()

    def is_b(event):
        return event.name == "B"

    with Impostor(path, script), Monitor(path) as monitor:
        monitor.ask("stop")
        assert monitor.wait_for(is_b, 60) == Event("B", {"n": 1})
        assert monitor.wait_for(is_b, 60) == Event("B", {"n": 2})
        assert monitor.wait_for(is_b, 0.01) is None
        assert not monitor.broken


def test_an_agent_that_still_answers_somebody_else(path):
    def script(peer):
        sent = json.loads(peer._lines.readline().lstrip(b"\xff"))
        peer.socket.sendall(b'lf an answer"}\n\xff{"return": 17}\n\xff')
        peer.say({"return": sent["arguments"]["id"]})
        assert peer.hear() == {"execute": "guest-fsfreeze-freeze"}
        peer.say({"return": 2})
        peer.wait()

    with Impostor(path, script), GuestAgent(path) as agent:
        assert agent.ask("guest-fsfreeze-freeze") == 2


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("said", [b"", b"\xff" + b"x" * (5 << 20), b"\xff[]\n", b'\xff{"return": 1}\n'])
def test_no_agent(path, said):
    def script(peer):
        peer.socket.sendall(said)
        peer.wait()

    with Impostor(path, script), pytest.raises(PeerError, match=r"within 0\.2 s|breaks its protocol"):
        GuestAgent(path, 0.2)
