"""The file of sealed keys: what is written is read, and nothing else is."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.errors import CorruptDataError, MalformedError, UnsupportedError
from ioflt.keys.sealed import file
from ioflt.keys.sealed.file import MAGIC, Content, CredentialSeal, SealedKey, TpmSeal

UUID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
SEALS = [
    CredentialSeal(credential=b"x"),
    TpmSeal(tcti="device:/dev/tpmrm0", pcrs=(7,), public=b"p", private=b"q"),
]

times = st.integers(0, 2**53 - 1)
contents = st.builds(
    lambda days, seen, seal, keys: Content(provider=UUID, days=days, seen=seen, seal=seal, keys=tuple(keys)),
    st.integers(1, 365),
    times,
    st.sampled_from(SEALS),
    st.lists(
        st.builds(SealedKey, st.text(min_size=1, max_size=40), times, st.binary(min_size=60, max_size=60)),
        unique_by=lambda key: key.key_id,
        max_size=5,
    ),
)


def encodable(content):
    try:
        return bool(file.signed(content))
    except UnicodeEncodeError:  # a lone surrogate
        return False


@given(contents.filter(encodable), st.binary(min_size=32, max_size=32))
def test_what_is_written_is_read(content, mac):
    data = file.signed(content) + mac
    assert file.parse(data) == (content, mac)
    assert file.signed(file.parse(data)[0]) + mac == data


@given(st.binary(max_size=300), st.booleans())
def test_garbage_is_refused(garbage, with_magic):
    with pytest.raises(CorruptDataError):
        file.parse(MAGIC + garbage if with_magic else garbage)


def raw(**changes):
    fields = {
        "provider": UUID,
        "days": 30,
        "seen": 1,
        "seal": {"kind": "systemd-creds", "credential": b"x"},
        "keys": [["id", 1, bytes(60)]],
    }
    given = {name: value for name, value in (fields | changes).items() if value is not None}
    return MAGIC + msgspec.msgpack.encode(given) + bytes(32)


GOOD = raw()

REFUSED = {
    "no magic": (b"x" + GOOD, "bad magic"),
    "empty": (b"", "bad magic"),
    "another version": (GOOD.replace(b"cache 1", b"cache 2", 1), "unknown version"),
    "a version without end": (b"ioflt key cache 1111111111\n", "bad magic"),
    "magic alone": (MAGIC, "bad encoding"),
    "no MAC": (GOOD[:-32], "bad encoding"),
    "cut short": (GOOD[:-1], "bad encoding"),
    "a byte more": (GOOD + b"\0", "bad encoding"),
    "no map": (MAGIC + msgspec.msgpack.encode([1]) + bytes(32), "bad field"),
    "no provider": (raw(provider=None), "bad field"),
    "a provider that is no uuid": (raw(provider="x"), "bad field"),
    "a field more": (raw(more=1), "bad field"),
    "no day": (raw(days=0), "bad field"),
    "too many days": (raw(days=366), "bad field"),
    "a time before 1970": (raw(seen=-1), "bad field"),
    "a time without sense": (raw(seen=2**53), "bad field"),
    "an unknown seal": (raw(seal={"kind": "keyfile"}), "bad field"),
    "a seal without its credential": (raw(seal={"kind": "systemd-creds"}), "bad field"),
    "a TCTI that names a library": (
        raw(seal={"kind": "tpm2", "tcti": "/tmp/x.so:", "pcrs": [7], "public": b"p", "private": b"p"}),
        "bad field",
    ),
    "a PCR that is none": (
        raw(seal={"kind": "tpm2", "tcti": "device:x", "pcrs": [24], "public": b"p", "private": b"p"}),
        "bad field",
    ),
    "a credential above the limit": (
        raw(seal={"kind": "systemd-creds", "credential": bytes(16385)}),
        "bad field",
    ),
    "a key without an id": (raw(keys=[["", 1, bytes(60)]]), "bad field"),
    "a key id above the limit": (raw(keys=[["x" * 1025, 1, bytes(60)]]), "bad field"),
    "a blob too short": (raw(keys=[["id", 1, bytes(59)]]), "bad field"),
    "a blob too long": (raw(keys=[["id", 1, bytes(61)]]), "bad field"),
    "a key with more": (raw(keys=[["id", 1, bytes(60), 1]]), "bad field"),
    "too many keys": (raw(keys=[[str(n), 1, bytes(60)] for n in range(16385)]), "bad field"),
    "twice the same key": (raw(keys=[["id", 1, bytes(60)], ["id", 2, bytes(60)]]), "twice the same key"),
    "an array that is said to be huge": (
        MAGIC + GOOD[len(MAGIC) : GOOD.index(b"\xa4keys") + 5] + b"\xdd\xff\xff\xff\xff" + bytes(32),
        "bad field",
    ),
    "a text that is no UTF-8": (raw().replace(b"\xa2id", b"\xa2\xff\xfe"), "bad encoding"),
    "a number in a longer form": (GOOD.replace(b"\xa4days\x1e", b"\xa4days\xcc\x1e"), "not canonical"),
    "fields in another order": (
        MAGIC
        + msgspec.msgpack.encode(dict(reversed(msgspec.msgpack.decode(GOOD[18:-32]).items())))
        + bytes(32),
        "not canonical",
    ),
    "too large": (bytes(file.MAX_FILE + 1), "too large"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    data, reason = REFUSED[name]
    with pytest.raises((MalformedError, UnsupportedError)) as caught:
        file.parse(data)
    assert caught.value.reason == reason


def test_the_one_that_they_were_made_of_is_good():
    assert file.parse(GOOD)[0].days == 30


def test_the_largest_fits():
    keys = tuple(SealedKey(f"{n:05}".ljust(1024, "x"), 2**53 - 1, bytes(60)) for n in range(file.MAX_KEYS))
    seal = CredentialSeal(credential=bytes(16384))
    data = file.signed(Content(provider=UUID, days=365, seen=2**53 - 1, seal=seal, keys=keys)) + bytes(32)
    assert len(data) < file.MAX_FILE
    assert len(file.parse(data)[0].keys) == file.MAX_KEYS
