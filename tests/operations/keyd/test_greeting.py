"""How a connection to keyd begins: in which version, what for, and for whom."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import msgspec
import pytest

from ioflt.errors import PeerError, UsageError
from ioflt.keys import starter
from ioflt.keys.client import KeyClient
from ioflt.wire.frame import write_frame
from ioflt.wire.keyd import replies, requests


class Raw(msgspec.Struct):
    id: int
    body: object


@contextmanager
def old_keyd(path: os.PathLike[str]) -> Iterator[None]:
    """One of version 1: closes without a word when it is greeted otherwise."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(path))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                frame = client.recv(4096)
                greeting = msgspec.msgpack.decode(frame[4:]) if frame else None
                if greeting is not None and greeting["body"] == {
                    "type": "hello",
                    "protocol": "ioflt-keyd",
                    "versions": [1],
                }:
                    client.sendall(write_frame(Raw(greeting["id"], {"type": "welcome", "version": 1})))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        thread.join()
        listener.close()


def test_a_keyd_of_an_earlier_version_is_told_of(where):
    with (
        old_keyd(where.keyd_socket),
        pytest.raises(PeerError, match="another version of ioflt: it speaks version 1"),
    ):
        KeyClient.connect(operation="vm encrypt")


def test_a_client_of_an_earlier_version_is_told_why(keys, where):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(where.keyd_socket))
        hello = {"type": "hello", "protocol": "ioflt-keyd", "versions": [1]}
        client.sendall(write_frame(Raw(1, hello)))
        frame = b""
        while more := client.recv(4096):
            frame += more
    body = msgspec.msgpack.decode(frame[4:])["body"]
    assert (body["type"], body["error"]) == ("failure", "PeerError")
    assert "it speaks version 3, asked was 1" in body["message"]


def test_who_keyd_belongs_to_may_act_for_others(keys, where):
    with closing(starter.greet(where, start=False, operation="mount", as_principal="user:alice")) as link:
        assert isinstance(link.call(requests.GetStatus()), replies.Status)
    with pytest.raises(UsageError, match="not a name of a user"):
        starter.greet(where, start=False, as_principal="user:a/b")
