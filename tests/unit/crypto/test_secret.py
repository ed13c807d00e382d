"""Secret: what it refuses, and that nothing of it stays in memory."""

import copy
import pickle

import pytest

from ioflt.crypto.rng import random_bytes
from ioflt.crypto.secret import Secret
from ioflt.errors import BugError


def test_holds_its_own_copy() -> None:
    source = bytearray(b"key material")
    secret = Secret(source)
    source[:] = bytes(len(source))
    assert secret.view() == b"key material"
    assert len(secret) == 12


def test_view_is_read_only_and_buffer_is_not() -> None:
    secret = Secret.allocate(4)
    with pytest.raises(TypeError):
        secret.view()[0] = 1
    secret.buffer()[:] = b"abcd"
    assert secret.view() == b"abcd"


def test_equality() -> None:
    assert Secret(b"a" * 32) == Secret(b"a" * 32)
    assert Secret(b"a" * 32) != Secret(b"a" * 31 + b"b")
    assert Secret(b"a") != Secret(b"aa")
    assert Secret(b"a") != b"a"


def test_random_secrets_differ() -> None:
    assert Secret.random(32) != Secret.random(32)
    assert len(random_bytes(17)) == 17


def test_wiped_secret_cannot_be_used() -> None:
    secret = Secret(b"abcd")
    view = secret.view()
    with secret:
        pass
    secret.wipe()
    assert secret.wiped
    assert view == bytes(4)
    for use in (secret.view, secret.buffer, lambda: secret == Secret(b"abcd"), lambda: Secret(b"") == secret):
        with pytest.raises(BugError, match="a wiped secret is used"):
            use()


def test_wiped_even_when_an_exception_leaves_the_context() -> None:
    with pytest.raises(ValueError, match="x"), Secret(b"abcd") as secret:
        raise ValueError("x")
    assert secret.wiped


def test_a_view_keeps_the_bytes_alive() -> None:
    assert bytes(Secret(b"abcd").view()) == b"abcd"


def test_wiped_when_the_last_reference_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    buffer_type = type(Secret(b"")._data)
    original = buffer_type.__del__

    def watched(data: bytearray) -> None:
        original(data)
        seen.append(bytes(data))

    monkeypatch.setattr(buffer_type, "__del__", watched)
    secret = Secret(b"abcd")
    view = secret.view()
    del secret
    assert seen == []
    del view
    assert seen == [bytes(4)]


def test_never_shown_copied_pickled_or_hashed() -> None:
    secret = Secret(b"abcd")
    assert repr(secret) == str(secret) == f"{secret}" == "<Secret 4 bytes>"
    for leak in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(BugError, match="not copied or pickled"):
            leak(secret)
    with pytest.raises(TypeError):
        hash(secret)
