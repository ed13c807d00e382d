"""Key locators: every value survives writing and parsing, hostile text never does more than raise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.crypto.secret import Secret
from ioflt.errors import CorruptDataError, MalformedError, UnsupportedError, UsageError
from ioflt.format.keysafe import cryptodict, locator, safe
from ioflt.format.keysafe.cryptodict import CipherKey, CryptoDict
from ioflt.format.keysafe.locator import (
    FqidLocator,
    LdapLocator,
    ListLocator,
    Locator,
    NullLocator,
    PairLocator,
    PhraseLocator,
    RawKeyLocator,
    Role,
    RoleLocator,
    ScriptLocator,
)
from ioflt.types import KeyRef

WORDS = ("<VMWARE-NULL>", "<VMWARE-EMPTYSTRING>")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda text: text not in WORDS)
NULLABLE = st.none() | TEXT
ATOMS = st.one_of(
    st.builds(NullLocator),
    st.builds(RawKeyLocator, TEXT),
    st.builds(PhraseLocator, TEXT, TEXT),
    st.builds(LdapLocator, NULLABLE, NULLABLE, NULLABLE, st.integers(0, 65535), st.booleans(), TEXT),
    st.builds(ScriptLocator, NULLABLE, TEXT, TEXT),
    st.builds(RoleLocator, NULLABLE, st.sampled_from(Role)),
    st.builds(FqidLocator, NULLABLE, NULLABLE, TEXT),
)


def compounds(inner: st.SearchStrategy[Locator]) -> st.SearchStrategy[Locator]:
    lists = st.builds(ListLocator, st.lists(inner, min_size=1, max_size=3).map(tuple))
    return lists | st.builds(PairLocator, inner, TEXT, st.binary(min_size=1, max_size=60))


def depth(value: Locator) -> int:
    match value:
        case ListLocator(members):
            return 1 + max(map(depth, members))
        case PairLocator(inner):
            return 1 + depth(inner)
        case _:
            return 0


LOCATORS = st.recursive(ATOMS, compounds, max_leaves=6).filter(
    lambda value: depth(value) <= locator.MAX_DEPTH
)


@given(LOCATORS)
def test_parse_gives_back_what_was_written(value: Locator) -> None:
    text = locator.write(value)
    assert locator.parse(text) == value


@given(st.text(alphabet="vmwarekey:/(),%listpairfqd<>-NULAE0=", max_size=80))
def test_hostile_text_only_raises_corrupt_data(text: str) -> None:
    try:
        parsed = locator.parse("vmware:key/" + text)
    except CorruptDataError:
        return
    assert locator.parse(locator.write(parsed)) == parsed


def test_words_of_the_grammar_are_no_values() -> None:
    with pytest.raises(UsageError):
        locator.write(FqidLocator(None, "local", "<VMWARE-NULL>"))


def test_a_safe_names_its_first_key() -> None:
    phrase = PairLocator(PhraseLocator("id", "pass2key=x"), "HMAC-SHA-1", b"box")
    key = PairLocator(FqidLocator(None, "KMS", "a/b"), "HMAC-SHA-1", b"box")
    assert safe.KeySafe((phrase, key)).key == KeyRef("KMS", "a/b")
    assert safe.KeySafe((phrase,)).key is None
    assert [safe.describe(pair) for pair in (phrase, key)] == ["passphrase", "key KMS:a/b"]


def test_locked_data_and_raw_keys_stay_out_of_reprs() -> None:
    assert "sesame" not in repr(PairLocator(RawKeyLocator("sesame"), "m", b"sesame"))
    assert "sesame" not in repr(cryptodict.parse("key=sesame"))


@given(st.dictionaries(st.from_regex("[0-9A-Za-z]+", fullmatch=True), TEXT, min_size=1, max_size=5))
def test_crypto_dictionaries_round_trip_in_order(items: dict[str, str]) -> None:
    text = str(CryptoDict(items))
    assert list(cryptodict.parse(text).items()) == list(items.items())


def test_crypto_dictionary_escapes_only_what_would_break_it() -> None:
    text = "pass2key=PBKDF2-HMAC-SHA-1:salt=ab+/cd%3d%3d:x=%25%3a"
    parsed = cryptodict.parse(text)
    assert (parsed["salt"], parsed["x"]) == ("ab+/cd==", "%:")
    assert str(parsed) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "bad name"),
        ("type", "bad name"),
        ("a=1:", "bad name"),
        ("a b=1", "bad name"),
        ("a=1:a=2", "duplicate name"),
        ("a=%z", "bad escape"),
        ("a=%ff", "not UTF-8"),
        ("a=" + "x" * 5000, "too large"),
    ],
)
def test_bad_crypto_dictionary(text: str, reason: str) -> None:
    with pytest.raises(MalformedError) as caught:
        cryptodict.parse(text)
    assert caught.value.reason == reason


@pytest.mark.parametrize(("cipher", "length"), [("AES-256", 32), ("XTS-AES-256", 64)])
def test_keys_round_trip(cipher: str, length: int) -> None:
    key = Secret.random(length)
    parsed = cryptodict.parse_key(cryptodict.write_key(CipherKey(cipher, key)))
    assert parsed.cipher == cipher
    assert parsed.key == key


def test_key_of_an_unknown_cipher() -> None:
    with pytest.raises(UnsupportedError, match="unknown cipher"):
        cryptodict.parse_key(Secret(b"type=key:cipher=ROT-13:key=AAAA"))
    with pytest.raises(MalformedError, match="not a key"):
        cryptodict.parse_key(Secret(b"\xff\xfe"))
