"""The pkcs11 provider against SoftHSM2, some of it through a module that misbehaves."""

import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from ioflt.crypto.secret import Secret
from ioflt.errors import (
    KeyCorrupt,
    KeyNotFound,
    KeyNotUsable,
    ProviderLocked,
    ProviderUnavailable,
    UsageError,
)
from ioflt.keys.pkcs11.provider import Pkcs11Provider, pin_in
from ioflt.keys.pkcs11.store import Pkcs11Store
from ioflt.keys.pkcs11.token import PinRefused, Token
from ioflt.testing.check_provider import check_provider
from tests.token_peers import MODULE, PIN, SoftHsm, build_moody_module

DEVICE_ERROR, DEVICE_REMOVED, GENERAL_ERROR = "0x30", "0x32", "0x5"
NOT_PERMITTED, MECHANISM_INVALID, PIN_LOCKED, PIN_EXPIRED = "0x68", "0x70", "0xa4", "0xa3"
COUNT_LOW, FINAL_TRY, LOCKED = "0x10000", "0x20000", "0x40000"


@pytest.fixture(scope="module")
def hsm(tmp_path_factory):
    """With the token `ioflt`, in which the keys `wrap` and `other` are."""
    made = SoftHsm.make(tmp_path_factory.mktemp("hsm") / "softhsm", "ioflt")
    for label in ("wrap", "other"):
        made.make_key("ioflt", label)
    return made


@pytest.fixture
def own_hsm(tmp_path):
    """One that a test may change."""
    made = SoftHsm.make(tmp_path / "softhsm", "own")
    made.make_key("own", "wrap")
    return made


@pytest.fixture(scope="module")
def moody_module(tmp_path_factory):
    return build_moody_module(tmp_path_factory.mktemp("module"))


@pytest.fixture
def moods(tmp_path):
    """What the moody module does: a file for each function."""
    directory = tmp_path / "moods"
    directory.mkdir()
    (directory / "logins").touch()
    return directory


@pytest.fixture
def store(tmp_path):
    directory = tmp_path / "providers"
    directory.mkdir(mode=0o700)
    return Pkcs11Store(directory)


@pytest.fixture
def pin_file(tmp_path):
    path = tmp_path / "pin"
    path.touch(0o600)
    path.write_text(f"{PIN}\n")
    return path


@pytest.fixture
def start():
    """Starts a provider of a file; it is closed at the end."""
    started = []

    def provider(file):
        started.append(Pkcs11Provider(file))
        return started[-1]

    yield provider
    for one in started:
        one.close()


@pytest.fixture
def make(hsm, store, pin_file, start):
    """Makes a provider, which logs in by a file."""

    def made(
        name="corp",
        key="wrap",
        *,
        token="ioflt",
        module=MODULE,
        at=hsm,
        pin=pin_file,
        moods=None,
        seconds=30.0,
    ):
        environment = at.environment | ({"MOODY": str(moods)} if moods else {})
        path = None if pin is None else str(pin)
        file = store.prepare(name, str(module), token, key, path, environment, seconds)
        store.add(file)
        return start(store.load(name))

    return made


@pytest.fixture
def moody(make, moody_module, moods):
    """Makes a provider whose module does as `moods` says."""

    def made(**how):
        return make(module=moody_module, moods=moods, **how)

    return made


def only(answers):
    (one,) = answers
    return one


def worker(provider):
    return provider._token._process


# What it is for


def test_the_contract(make, store, start):
    make()
    check_provider(lambda: start(store.load("corp")))


def test_the_contract_with_a_pin_that_a_person_gives(make, store, start):
    make(pin=None)
    check_provider(lambda: start(store.load("corp")), Secret(PIN.encode()))


def test_another_host_needs_nothing_but_the_token(make):
    ours, theirs = make(), make("elsewhere")
    key_id = ours.create()
    assert theirs.get([key_id]) == ours.get([key_id])
    assert len(key_id) == 125


def test_many_keys_at_once_from_several_threads_and_many_that_fail(make):
    provider = make()
    good = [provider.create() for _ in range(5)]
    uuids, blobs = zip(*(key_id.split(".") for key_id in good), strict=True)
    swapped = [f"{uuids[0]}.{blobs[1]}", f"{uuids[1]}.{blobs[0]}"]
    kept = dict(zip(good, provider.get(good), strict=True))
    many = [f"{uuids[0]}.aes-gcm:{number:080}" for number in range(300)]
    with ThreadPoolExecutor(8) as threads:
        for answers in threads.map(
            lambda _: provider.get([*good, *swapped, *many, "strange", *good]), range(8)
        ):
            assert answers[:5] == answers[-5:] == list(kept.values())
            assert all(isinstance(answer, KeyCorrupt) for answer in answers[5:-6])
            assert isinstance(answers[-6], KeyNotFound)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda text: text[:-4] + ("AAAA" if text[-4:] != "AAAA" else "BBBB"), KeyCorrupt),
        (lambda text: text.replace("aes-gcm:", "aes-gcm:AAAA")[:-4], KeyCorrupt),
        (lambda text: text[:-4], KeyNotFound),
        (lambda text: text + "AAAA", KeyNotFound),
        (lambda text: text[:-1] + "=", KeyNotFound),
        (lambda text: text.replace("aes-gcm:", "vault:v1:"), KeyNotFound),
        (lambda text: text.upper(), KeyNotFound),
        (lambda text: text + "\n", KeyNotFound),
        (lambda text: text.split(".")[1], KeyNotFound),
    ],
)
def test_a_key_id_that_was_changed(make, change, kind):
    provider = make()
    assert isinstance(only(provider.get([change(provider.create())])), kind)


def test_a_key_of_another_wrapping_key(make):
    assert isinstance(only(make("two", "other").get([make().create()])), KeyCorrupt)


# The wrapping key


def test_the_key_is_made_once_and_does_not_leave(own_hsm, make, pin_file):
    file = make(key="new", token="own", at=own_hsm).file
    for _ in range(2):
        token = Token(file)
        with pin_in(str(pin_file), "corp") as pin:
            assert "never leaves it" in token.open(pin, by_hand=True, make=True)
        token.close()
    assert own_hsm.keys("own") == ["new", "wrap"]
    listed = own_hsm.tool("own", "--list-objects", "--type", "secrkey")
    _, _, made = listed.partition("new")
    assert re.search(r"Usage: +encrypt, decrypt\n", listed)
    assert re.search(r"Access: +sensitive, always sensitive, never extractable, local\n", made or listed)


def test_a_key_that_is_not_there(make):
    with pytest.raises(KeyNotFound, match="the token of corp: it has no AES key none"):
        make(key="none").create()


def test_a_key_that_is_deleted_and_another_in_its_place(own_hsm, make):
    provider = make(token="own", at=own_hsm)
    key_id = provider.create()
    assert isinstance(only(provider.get([key_id])), Secret)
    own_hsm.delete_key("own", "wrap")
    assert isinstance(only(provider.get([key_id])), KeyNotFound)
    with pytest.raises(KeyNotFound):
        provider.create()
    assert provider.status().state == "ready"
    own_hsm.make_key("own", "wrap")
    corrupt = only(provider.get([key_id]))
    assert isinstance(corrupt, KeyCorrupt)
    assert corrupt.message == "the token of corp: its key does not unwrap that"
    assert isinstance(only(provider.get([provider.create()])), Secret)


def test_two_keys_of_one_label(own_hsm, make):
    own_hsm.make_key("own", "wrap")
    with pytest.raises(KeyNotUsable, match="it has 2 AES keys wrap"):
        make(token="own", at=own_hsm).create()


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        (("--usage-decrypt", "--extractable"), "AES:32", "can be read by who has the PIN"),
        (("--usage-decrypt", "--sensitive"), "AES:16", "is not one of 256 bits"),
    ],
)
def test_keys_that_will_not_do(own_hsm, make, arguments, kind, says):
    own_hsm.make_key("own", "bad", *arguments, kind=kind)
    with pytest.raises(KeyNotUsable, match=says):
        make(key="bad", token="own", at=own_hsm).create()


def test_a_key_that_does_other_work(own_hsm, make):
    own_hsm.make_key_that_signs("own", "signs")
    with pytest.raises(KeyNotUsable, match="may not both encrypt and decrypt"):
        make(key="signs", token="own", at=own_hsm).create()


def test_what_the_token_does_not_permit(moody, moods):
    provider = moody()
    (moods / "C_Encrypt").write_text(MECHANISM_INVALID)
    with pytest.raises(KeyNotUsable, match="knows no AES-GCM"):
        provider.create()
    (moods / "C_Encrypt").unlink()
    key_id = provider.create()
    (moods / "C_Decrypt").write_text(NOT_PERMITTED)
    refused = only(provider.get([key_id]))
    assert isinstance(refused, KeyNotUsable)
    assert "does not permit the use of its key wrap" in refused.message
    with pytest.raises(KeyNotUsable):  # no key whose data could never be read again
        provider.create()
    assert provider.status().state == "ready"


# PINs


def test_a_wrong_pin_is_not_tried_twice(moody, moods, pin_file):
    provider = moody()
    pin_file.write_text("wrong")
    for _ in range(3):
        with pytest.raises(
            ProviderLocked, match=r"^the token of corp: wrong PIN; it takes few more wrong ones$"
        ):
            provider.create()
    status = provider.status()
    assert (status.state, status.slots) == ("locked", ("pin-file",))
    assert "wrong PIN" in status.reason
    assert (moods / "logins").read_text() == "i"
    with pytest.raises(KeyNotUsable, match="wrong PIN"):
        provider.unlock(None)
    assert (moods / "logins").read_text() == "ii"
    pin_file.write_text(PIN)
    with pytest.raises(ProviderLocked):
        provider.create()
    provider.unlock(None)
    assert isinstance(only(provider.get([provider.create()])), Secret)
    assert provider.status().state == "ready"


def test_the_last_try_is_not_made_unasked(moody, moods):
    provider = moody()
    (moods / "tokenflags").write_text(FINAL_TRY)
    for _ in range(2):
        with pytest.raises(ProviderLocked, match="one more wrong PIN locks it, so none is tried unasked"):
            provider.create()
    assert (moods / "logins").read_text() == ""
    provider.unlock(None)
    assert (moods / "logins").read_text() == "i"
    provider.create()


@pytest.mark.parametrize(
    ("name", "value", "says", "logins"),
    [
        ("tokenflags", LOCKED, "its PIN is locked", ""),
        ("C_Login", PIN_LOCKED, "its PIN is locked", "i"),
        ("C_Login", PIN_EXPIRED, "its PIN has expired", "i"),
    ],
)
def test_a_pin_that_is_of_no_use(moody, moods, name, value, says, logins):
    provider = moody()
    (moods / name).write_text(value)
    for _ in range(2):
        with pytest.raises(ProviderLocked, match=says):
            provider.create()
    assert (moods / "logins").read_text() == logins


def test_a_code_that_says_nothing_of_the_pin(moody, moods):
    provider = moody()
    (moods / "C_Login").write_text(GENERAL_ERROR)
    with pytest.raises(ProviderUnavailable, match="it answers GeneralError"):
        provider.create()
    (moods / "tokenflags").write_text(COUNT_LOW)  # but the token counted it
    for _ in range(2):
        with pytest.raises(ProviderLocked, match="GeneralError to the PIN; it takes few more wrong ones"):
            provider.create()
    assert (moods / "logins").read_text() == "ii"


def test_how_many_tries_are_left(moody, moods, pin_file):
    provider = moody()
    pin_file.write_text("wrong")
    (moods / "tokenflags").write_text(FINAL_TRY)
    with pytest.raises(KeyNotUsable, match="wrong PIN; one more wrong one locks it"):
        provider.unlock(None)


def test_a_wrong_pin_of_a_person_changes_nothing(make):
    provider = make(pin=None)
    with pytest.raises(ProviderLocked, match="the provider corp waits for its PIN"):
        provider.create()
    provider.unlock(Secret(PIN.encode()))
    key_id = provider.create()
    for wrong in (b"wrong", b"\xff\xff\xff\xff"):
        with pytest.raises(KeyNotUsable, match="wrong PIN"):
            provider.unlock(Secret(wrong))
    for none in (b"", b"1" * 256):
        with pytest.raises(UsageError, match="1 to 255 bytes"):
            provider.unlock(Secret(none))
    assert isinstance(only(provider.get([key_id])), Secret)


def test_a_pin_that_is_another_now_is_asked_for_again(moody, moods):
    provider = moody(pin=None)
    provider.unlock(Secret(PIN.encode()))
    (moods / "C_Login").write_text("0xa0")
    worker(provider).kill()
    for _ in range(2):
        with pytest.raises(ProviderLocked):
            provider.create()
    assert (moods / "logins").read_text() == "ii"
    assert provider.status().reason == "the provider corp waits for its PIN"


def test_a_pin_in_a_file_is_not_typed(make, pin_file):
    with pytest.raises(UsageError, match=f"reads its PIN from {pin_file}"):
        make().unlock(Secret(b"1234"))


@pytest.mark.parametrize("text", ["", "\n", "1" * 300])
def test_what_is_no_pin(make, pin_file, text):
    provider = make()
    pin_file.write_text(text)
    with pytest.raises(ProviderUnavailable, match=f"{pin_file}, by which the provider corp logs in: no PIN"):
        provider.create()


def test_a_pin_file_that_others_may_read(make, pin_file):
    provider = make()
    pin_file.chmod(0o640)
    with pytest.raises(ProviderUnavailable, match="is open to others: mode 640"):
        provider.create()


# Modules and tokens that are not there


def test_modules_that_are_none(make, tmp_path):
    with pytest.raises(ProviderUnavailable, match=r"its module /none\.so cannot be used: .*No such file"):
        make("none", module="/none.so").create()
    foreign = next(Path("/usr/lib").glob("*/libz.so.1"))
    with pytest.raises(ProviderUnavailable, match=r"cannot be used: .*C_GetFunctionList"):
        make("foreign", module=foreign).create()


def test_without_the_extra(make, tmp_path, monkeypatch):
    (tmp_path / "pkcs11.py").write_text("raise ModuleNotFoundError('No module named pkcs11')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ProviderUnavailable, match=r"the token of corp: .* the package python-pkcs11"):
        make().create()


def test_a_token_that_is_removed_and_comes_back(own_hsm, make):
    provider = make(token="own", at=own_hsm)
    key_id = provider.create()
    kept = provider.get([key_id])
    own_hsm.tokens.rename(own_hsm.directory / "away")
    own_hsm.tokens.mkdir()
    worker(provider).kill()  # SoftHSM goes on with what it has in memory
    gone = only(provider.get([key_id]))
    assert isinstance(gone, ProviderUnavailable)
    assert gone.message == "the token of corp: no token own is there"
    assert (provider.status().state, provider.status().reason) == ("unavailable", gone.message)
    own_hsm.tokens.rmdir()
    (own_hsm.directory / "away").rename(own_hsm.tokens)
    assert provider.get([key_id]) == kept
    assert provider.status().state == "ready"


def test_two_tokens_of_one_label(own_hsm, make):
    own_hsm.add("own")
    with pytest.raises(ProviderUnavailable, match="2 tokens are called own"):
        make(token="own", at=own_hsm).create()


@pytest.mark.parametrize("code", [DEVICE_ERROR, DEVICE_REMOVED, GENERAL_ERROR])
def test_a_device_that_fails_is_no_corrupt_key(moody, moods, code):
    provider = moody()
    key_id = provider.create()
    kept = provider.get([key_id])
    (moods / "C_Decrypt").write_text(code)
    failed = only(provider.get([key_id]))
    assert isinstance(failed, ProviderUnavailable)
    assert "the token of corp: it answers " in failed.message
    assert provider.status().state == "unavailable"
    (moods / "C_Decrypt").unlink()
    assert provider.get([key_id]) == kept
    assert provider.status().state == "ready"


# Modules that misbehave


@pytest.mark.parametrize("function", ["C_Initialize", "C_Login", "C_Decrypt"])
def test_a_module_that_hangs(make, moody, moods, function):
    key_id = make().create()
    provider = moody(name="slow", seconds=0.5)
    (moods / function).write_text("hang")
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: only(provider.get([key_id])), range(8)))
    assert all(isinstance(answer, ProviderUnavailable) for answer in answers)
    assert {answer.message for answer in answers} == {"the token of slow: no answer within 0.5 seconds"}
    assert provider._token is None
    (moods / function).unlink()
    assert only(provider.get([key_id])).message == answers[0].message  # for a while none is started
    assert provider._token is None
    provider.change(msgspec.structs.replace(provider.file, timeout=30.0))
    assert isinstance(only(provider.get([key_id])), Secret)


def test_a_module_that_crashes(moody, moods):
    provider = moody()
    key_id = provider.create()
    (moods / "C_Decrypt").write_text("crash")
    crashed = only(provider.get([key_id]))
    assert isinstance(crashed, ProviderUnavailable)
    assert crashed.message == "the token of corp: its module crashed: SIGABRT"
    (moods / "C_Decrypt").unlink()
    assert isinstance(only(provider.get([key_id])), Secret)


def test_a_worker_that_is_gone_is_not_missed(make):
    provider = make()
    key_id = provider.create()
    first = worker(provider)
    first.kill()
    first.wait()
    assert isinstance(only(provider.get([key_id])), Secret)
    assert worker(provider).pid != first.pid


# Locks


def test_a_lock_logs_out(moody, moods):
    provider = moody()
    provider.create()
    process = worker(provider)
    provider.lock()
    assert process.returncode == 0
    assert (moods / "logins").read_text() == "io"


def test_a_lock_does_not_wait_for_a_module_that_hangs(moody, moods):
    provider = moody(seconds=60.0)
    key_id = provider.create()
    process = worker(provider)
    (moods / "C_Decrypt").write_text("hang")
    os.mkfifo(moods / "hangs")
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(provider.get, [key_id])
        (moods / "hangs").read_text()
        provider.lock()
        assert isinstance(only(answer.result()), ProviderLocked)
    assert process.returncode == -signal.SIGKILL


def test_locked_while_others_ask(make):
    provider = make()
    key_id = provider.create()
    kept = only(provider.get([key_id]))
    answers = []
    under_way = threading.Event()

    def fetch():
        for _ in range(30):
            answers.append(provider.get([key_id] * 3)[0])
            under_way.set()

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert under_way.wait(60)
    provider.lock()
    for thread in threads:
        thread.join()
    assert isinstance(only(provider.get([key_id])), ProviderLocked)
    for answer in answers:
        assert isinstance(answer, ProviderLocked) or answer == kept
    provider.unlock(None)
    assert only(provider.get([key_id])) == kept


def test_a_changed_file_is_used_at_once(make):
    provider = make(key="none")
    with pytest.raises(KeyNotFound):
        provider.create()
    provider.change(make("corp2").file)
    assert isinstance(only(provider.get([provider.create()])), Secret)


# The process


def test_what_the_worker_has(make):
    provider = make()
    provider.create()
    place = Path(f"/proc/{worker(provider).pid}")
    limits = (place / "limits").read_text()
    assert re.search(r"Max core file size +0 +0 ", limits)
    status = (place / "status").read_text()
    assert "NoNewPrivs:\t1\n" in status
    assert "Seccomp:\t2\n" in status
    for name in ("cmdline", "environ"):
        assert PIN.encode() not in (place / name).read_bytes()
    targets = sorted(os.readlink(path) for path in (place / "fd").iterdir())
    assert targets[:3] == ["/dev/null"] * 3
    assert [target for target in targets[3:] if target.startswith("socket:")] == targets[3:][-1:]
    assert all(
        target.startswith((str(Path(provider.file.environment["SOFTHSM2_CONF"]).parent), "socket:"))
        for target in targets[3:]
    )


def test_a_pin_refused_is_told_apart(make, pin_file):
    token = Token(make().file)
    try:
        token.load()
        _, tries = token.find()
        with pytest.raises(PinRefused), Secret(b"nonsense") as pin:
            token.log_in(pin, tries, by_hand=False)
        assert token.find()[1] == "few"
    finally:
        token.close()
