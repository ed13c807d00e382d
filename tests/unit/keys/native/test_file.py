"""Provider files and backups: what is written is read, and each wrong file fails for one named reason."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.errors import CorruptDataError, MalformedError, UnsupportedError
from ioflt.keys.native import file as pf
from ioflt.keys.provider_file import MAX_FILE, write

UUID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
ARGON2 = pf.Argon2(salt=bytes(16), iterations=3, lanes=4, memory_kib=65536)
BLOB = bytes(range(60))
SLOTS = (
    pf.PassphraseSlot(argon2=ARGON2, blob=BLOB),
    pf.KeyfileSlot(blob=BLOB),
    pf.CredentialSlot(credential=b"sealed", blob=BLOB),
)
PROVIDER = pf.ProviderFile(name="local", uuid=UUID, kdk_id=UUID, backed_up=False, slots=SLOTS)
BACKUP = pf.BackupFile(name="local", uuid=UUID, kdk_id=UUID, protection="host", argon2=ARGON2, blob=BLOB)


def changed(file, path, value):
    """The file's bytes with one field changed; `...` removes it."""
    whole = json.loads(write(file))
    *where, last = path
    node = whole
    for step in where:
        node = node[step]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return json.dumps(whole).encode()


def test_what_is_written_is_read():
    assert pf.parse_provider(write(PROVIDER)) == PROVIDER
    assert pf.parse_backup(write(BACKUP)) == BACKUP
    assert write(pf.parse_provider(write(PROVIDER))) == write(PROVIDER)


WRONG = [
    ((), b"", "bad JSON"),
    ((), b"\xff", "not UTF-8"),
    ((), b"[]", "not an object"),
    ((), b'{"format": 1, "format": 1}', "duplicate key"),
    ((), b" " * (MAX_FILE + 1), "too large"),
    (("format",), "LUKS", "wrong format"),
    (("format",), ..., "wrong format"),
    (("version",), 2, "unknown version"),
    (("version",), True, "unknown version"),
    (("version",), 1.0, "unknown version"),
    (("version",), ..., "unknown version"),
    (("name",), "../../etc/shadow", "bad field"),
    (("name",), "local\n", "bad field"),
    (("name",), "", "bad field"),
    (("name",), ".hidden", "bad field"),
    (("uuid",), "0f1e2d3c", "bad field"),
    (("kdk_id",), UUID.upper(), "bad field"),
    (("backed_up",), 1, "bad field"),
    (("backed_up",), ..., "bad field"),
    (("extra",), 1, "bad field"),
    (("slots",), [], "no slot"),
    (("slots",), {}, "bad field"),
    (("slots",), [1], "bad field"),
    (("slots",), ["\udc80"], "bad field"),
    (("name",), "\udc80", "bad field"),
    (("slots", 0, "kind"), "fido2", "unknown slot"),
    (("slots", 0, "kind"), ..., "unknown slot"),
    (("slots", 1, "kind"), "passphrase", "bad field"),
    (("slots", 0, "blob"), "AAAA", "bad field"),
    (("slots", 0, "blob"), "not base64!", "bad field"),
    (("slots", 0, "blob"), 5, "bad field"),
    (("slots", 0, "argon2", "memory_kib"), 1 << 30, "bad field"),
    (("slots", 0, "argon2", "memory_kib"), 8, "bad field"),
    (("slots", 0, "argon2", "iterations"), 17, "bad field"),
    (("slots", 0, "argon2", "iterations"), 0, "bad field"),
    (("slots", 0, "argon2", "lanes"), 0, "bad field"),
    (("slots", 0, "argon2", "salt"), "AAAA", "bad field"),
    (("slots", 2, "credential"), "", "bad field"),
]


@pytest.mark.parametrize(("path", "value", "reason"), WRONG)
def test_a_wrong_provider_file(path, value, reason):
    data = value if path == () else changed(PROVIDER, path, value)
    with pytest.raises(CorruptDataError) as caught:
        pf.parse_provider(data)
    assert caught.value.reason == reason
    assert type(caught.value) is (UnsupportedError if reason.startswith("unknown") else MalformedError)


def test_two_slots_of_one_kind():
    twice = pf.ProviderFile(name="p", uuid=UUID, kdk_id=UUID, backed_up=False, slots=SLOTS[:1] * 2)
    with pytest.raises(MalformedError, match="twice the same slot"):
        pf.parse_provider(write(twice))


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("format",), "ioflt native provider", "wrong format"),
        (("version",), 2, "unknown version"),
        (("protection",), "none", "bad field"),
        (("blob",), ..., "bad field"),
        (("argon2", "memory_kib"), 1 << 30, "bad field"),
    ],
)
def test_a_wrong_backup(path, value, reason):
    with pytest.raises(CorruptDataError) as caught:
        pf.parse_backup(changed(BACKUP, path, value))
    assert caught.value.reason == reason


@given(st.data())
def test_a_changed_byte_is_read_or_refused(data):
    whole = bytearray(write(PROVIDER))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        file = pf.parse_provider(bytes(whole))
    except CorruptDataError:
        return
    assert pf.parse_provider(write(file)) == file
