"""The transit provider before servers with the right certificate that answer something else."""

import base64
import contextlib
import itertools
import json
import re
import socket
import ssl
import threading

import pytest

from ioflt.errors import KeyCorrupt, KeyNotFound, KeyNotUsable, ProviderUnavailable
from ioflt.keys.transit.file import TokenLogin, TransitFile
from ioflt.keys.transit.provider import TransitProvider
from ioflt.testing.pykmip import HOST

UUID = "00000000-0000-4000-8000-000000000001"
KEY_ID = f"{UUID}.vault:v1:{'A' * 80}"


@pytest.fixture(scope="module")
def listening(authority):
    """A context for the servers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server", hosts=(HOST,)))
    return context


@pytest.fixture
def answered(authority, listening, tmp_path):
    """What the provider makes of a server that gives this answer to each request."""
    listener = socket.create_server((HOST, 0))
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("s.token")
    asked = []

    def serve(answer):
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            with listening.wrap_socket(accepted, server_side=True) as connection:
                request = whole_request(connection)
                asked.append(request)
                if b"lookup-self" in request:
                    connection.sendall(http(b"{}"))
                else:
                    with contextlib.suppress(OSError):  # who reads only a part of it is right
                        for part in [answer] if isinstance(answer, bytes) else answer:
                            connection.sendall(part)

    def get(answer, key_id=KEY_ID, **fields):
        thread = threading.Thread(target=serve, args=(answer,))
        thread.start()
        provider = TransitProvider(
            TransitFile(
                name="corp",
                uuid=UUID,
                host=HOST,
                port=listener.getsockname()[1],
                key="ioflt",
                login=TokenLogin(file=str(token)),
                anchors=authority.path.read_text(),
                **fields,
            )
        )
        try:
            (found,) = provider.get([key_id])
        finally:
            provider.close()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
        return found, asked

    yield get
    listener.close()


def whole_request(connection):
    """One with an unread rest would be ended by a reset, before the answer."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(65536)
    head, _, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"\r\nContent-Length: ([0-9]+)", head)
    while length and len(body) < int(length[1]):
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def http(body, status="200 OK", *more):
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def results(*items):
    return http(b'{"data": {"batch_results": [' + b", ".join(items) + b"]}}")


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (b"", ProviderUnavailable, "it closed the connection"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ProviderUnavailable, "it does not speak HTTP"),
        (http(b"", "307 Elsewhere", "Location: https://a"), ProviderUnavailable, "to another server"),
        (http(b'{"errors": []}', "500 Oops"), ProviderUnavailable, "HTTP status 500"),
        (http(b"<html>", "502 Bad Gateway"), ProviderUnavailable, "HTTP status 502"),
        (http(b'{"errors": ["a\\u001b[31m\\nb"]}', "503 X"), ProviderUnavailable, r"a\?\[31m b$"),
        (http(b'{"errors": ["x"]}', "404 X"), KeyNotFound, "has no engine transit"),
        (http(b'{"errors": ["no"]}', "403 X"), KeyNotUsable, "key ioflt: no"),
        (http(b'{"errors": ["encryption key not found"]}', "400 X"), KeyNotFound, "key not found"),
        (http(b" " * (300 << 10)), ProviderUnavailable, "its answer is too long"),
        (http(b"")[:-2], ProviderUnavailable, "closed the connection|not that of a transit engine"),
        (http(b"{}"), ProviderUnavailable, "does not fit the question"),
        (http(b"[" * 100_000), ProviderUnavailable, "not that of a transit engine"),
        (http(b"\xff"), ProviderUnavailable, "not that of a transit engine"),
        (results(), ProviderUnavailable, "does not fit the question"),
        (results(b"{}", b"{}"), ProviderUnavailable, "does not fit the question"),
        (results(b"{}"), KeyCorrupt, "gave 0 bytes as a key"),
        (results(b'{"plaintext": "QUJD"}'), KeyCorrupt, "gave 3 bytes as a key"),
        (results(b'{"plaintext": "%%"}'), ProviderUnavailable, "not that of a transit engine"),
        (results(b'{"plaintext": 1}'), ProviderUnavailable, "not that of a transit engine"),
    ],
    ids=range(20),
)
def test_an_answer_that_is_no_key(answered, answer, kind, says):
    found, _ = answered(answer)
    assert type(found) is kind
    assert "key server of corp" in found.message
    with pytest.raises(kind, match=says):
        raise found


def test_what_is_asked(answered):
    found, (request,) = answered(results(b'{"plaintext": "' + b"QUJD" * 10 + b'QUI="}'))
    assert bytes(found.view()) == b"ABC" * 10 + b"AB"
    head, body = request.split(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/transit/decrypt/ioflt HTTP/1.1\r\n")
    assert b"\r\nX-Vault-Token: s.token" in head
    assert json.loads(body) == {
        "batch_input": [
            {
                "ciphertext": KEY_ID.partition(".")[2],
                "associated_data": base64.b64encode(f"ioflt kek {UUID}".encode()).decode(),
            }
        ],
        "partial_failure_response_code": 200,
    }


def test_an_id_that_is_not_ours_is_not_sent(answered):
    found, asked = answered(results(), "not-made-here")
    assert isinstance(found, KeyNotFound)
    assert asked == []


def test_an_answer_without_an_end_is_given_up_in_time(answered):
    """The server is never silent: only the sum shows that it does not answer."""
    found, _ = answered(itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n"), timeout=1.0)
    assert isinstance(found, ProviderUnavailable)
    assert "no answer within 1 seconds" in str(found)
