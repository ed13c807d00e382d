"""VMX files as they lie in an encrypted home: exact bytes in and out, and nothing opens that was changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, BugError, MalformedError, UsageError
from ioflt.format import dictionary
from ioflt.format.vmx import sealed
from ioflt.types import KeyRef

WRAPPING = Secret(bytes(range(32)))
KEY = KeyRef("local", "a key/with = odd+signs")
FILE_ID = (1 << 62) + 77
PLAIN = b'displayName = "we|22b"\r\nmemsize = "512"\n\0\0'


def seal(plain: bytes, file_id: int = FILE_ID) -> bytes:
    return sealed.seal(plain, WRAPPING, KEY, file_id)


SEALED = seal(PLAIN)


@given(st.binary(max_size=400) | st.just(PLAIN))
def test_any_bytes_come_back(plain: bytes) -> None:
    text = seal(plain)
    assert sealed.is_sealed(text)
    assert sealed.open_(text, WRAPPING) == plain
    assert sealed.peek(text).length == len(plain)


def test_peek_needs_no_key_and_the_beginning_only() -> None:
    text = seal(PLAIN + b"#" * 500_000)
    info = sealed.peek(text)
    assert (info.file_id, info.length) == (FILE_ID, len(PLAIN) + 500_000)
    assert (info.key, info.display_name) == (KEY, 'we"b')
    assert info.locators == (f"key {KEY}",)
    assert sealed.peek(text[: sealed.PEEK_SIZE]) == info


def test_the_clear_lines() -> None:
    lines = seal(PLAIN).splitlines()
    assert lines[:3] == [
        b'.encoding = "UTF-8"',
        b'displayName = "we|22b"',
        b'ioflt.file = "id=4611686018427387981:length=42"',
    ]
    assert lines[3].startswith(
        b'encryption.keySafe = "vmware:key/list/(pair/(fqid/<VMWARE-NULL>/local/a%20key%2f'
    )
    assert lines[4].startswith(b'encryption.data = "')
    assert len(lines) == 5
    assert not seal(b"memsize = 1\n").splitlines()[1].startswith(b"displayName")


def test_the_longest_clear_lines_fit_a_peek() -> None:
    key = KeyRef("é" * 128, "ポ" * 1024)
    text = sealed.seal(b'displayName = "' + b"\x01" * 5000 + b'"\n', WRAPPING, key, FILE_ID)
    info = sealed.peek(text[: sealed.PEEK_SIZE])
    assert info.key == key
    assert len(info.display_name or "") == 256


def test_a_name_in_another_encoding_is_readable() -> None:
    plain = '.encoding = "windows-1252"\ndisplayName = "caf\xe9"\n'.encode("cp1252")
    assert sealed.peek(seal(plain)).display_name == "café"
    assert 'displayName = "café"'.encode() in seal(plain)


def test_a_save_keeps_the_safe_and_changes_the_data() -> None:
    first = seal(PLAIN)
    info = sealed.peek(first)
    with sealed.config_key(first[: sealed.PEEK_SIZE], WRAPPING) as key:
        second = sealed.reseal(first, key, PLAIN)
        assert sealed.open_with(second, key) == PLAIN
        with pytest.raises(UsageError, match="too large"):
            sealed.reseal(first, key, b"x" * (sealed.MAX_PLAINTEXT + 1))
    assert sealed.peek(second) == info
    assert second != first
    assert sealed.open_(second, WRAPPING) == PLAIN
    assert sealed.peek(seal(PLAIN)).safe != info.safe


def test_another_key_does_not_open() -> None:
    with pytest.raises(AuthenticationError):
        sealed.open_(seal(PLAIN), Secret(bytes(32)))
    with pytest.raises(AuthenticationError):
        sealed.config_key(seal(PLAIN), WRAPPING, KeyRef("local", "other"))
    with pytest.raises(AuthenticationError):
        sealed.open_with(seal(PLAIN), Secret(bytes(32)))


@pytest.mark.parametrize("line", [2, 3, 4])
def test_a_changed_line_does_not_open(line: int) -> None:
    lines = seal(PLAIN).split(b"\n")
    others = seal(PLAIN[:-1] + b"1", file_id=FILE_ID + 1).split(b"\n")
    lines[line] = others[line]
    with pytest.raises(AuthenticationError):
        sealed.open_(b"\n".join(lines), WRAPPING)


@given(st.data())
def test_a_flipped_bit_never_gives_other_bytes(data: st.DataObject) -> None:
    text = bytearray(SEALED)
    position = data.draw(st.integers(0, len(text) - 1))
    text[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        plain = sealed.open_(bytes(text), WRAPPING)
    except (AuthenticationError, MalformedError):
        return
    assert plain == PLAIN


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    assert not sealed.is_sealed(data)
    with pytest.raises(MalformedError):
        sealed.peek(data)


def test_size_limit() -> None:
    text = seal(b"x" * sealed.MAX_PLAINTEXT)
    assert len(sealed.open_(text, WRAPPING)) == sealed.MAX_PLAINTEXT
    with pytest.raises(UsageError, match="too large"):
        seal(b"x" * (sealed.MAX_PLAINTEXT + 1))
    with pytest.raises(BugError):
        seal(b"", file_id=1 << 64)


def test_clear_lines_added_by_others_do_no_harm() -> None:
    text = bytes(dictionary.parse(seal(PLAIN)).set("guestOS", "other"))
    moved = b'guestInfo.x = "1"\r\n' + text
    assert sealed.open_(moved, WRAPPING) == PLAIN
