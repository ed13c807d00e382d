"""VMX files under a passphrase: the known bytes in both directions, and what Workstation leaves in clear."""

import pytest

from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError
from ioflt.format.vmx import passphrase
from ioflt.format.vmx.passphrase import Randomness

PLAIN = b"""config.version = "8"
virtualHW.version = "13"
memsize = "512"
scsi0:0.fileName = "disk.vmdk"
dataFileKey = "type=key:cipher=AES-256:key=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8%3d"
"""

# What VMwareVMX 1.0.8 writes for the same passphrase, ids, salt, IVs and key
KNOWN = (
    b'encryption.keySafe = "vmware:key/list/(pair/(phrase/AAECAwQFBgc%3d/pass2key%3dPBKDF2%2dHMAC%2dSHA%2d1'
    b"%3acipher%3dAES%2d256%3arounds%3d10000%3asalt%3dEBESExQVFhcYGRobHB0eHw%253d%253d,HMAC%2dSHA%2d1,"
    b"ICEiIyQlJicoKSorLC0uL%2fugxbzII2pTQ46NnWNkAqHbxXdlAc7c5VtcUF8XfTX6vfemvTWKRTptTAkFQXZEv%2ft1pmqSz4aE43"
    b'kLOXCgkdMpqaeGvttUBoEBaytYc0uuPtD3mmKpsazvpNXsLOHcLG4Mne0%3d))"\n'
    b'encryption.data = "MDEyMzQ1Njc4OTo7PD0+PzRpoWQcrgJ+i4LI3x9QdEDjUrlUSy8SU3pueOpqyEyn9xpSE36enPvbHwcrTgf9'
    b"zsaj3NAaDVD8+dTaf2VcYum0Z0kHsCbKgsao4TZpHDJVUFmCMojREav60yrQNVEYI3eg03WEgIUFRpxmfSwMoKl8omXmPEq0tHznwRAE"
    b"qSq1K6LkZnWsrYaxGWsHJLjaUVGAgKC8EKwpQfA8O3i8dxFlPtLmqzQSzy1+KxcdCLHyuBwCIYzzCeLoSfYPd+7LhtHiJ6c4MLxDtu6S"
    b'eADoPhjRkpQZ"\n'
)


def phrase(text: str = "ioflt-pass") -> Secret:
    return Secret(text.encode())


def test_known_bytes_are_written() -> None:
    key = Secret(bytes((7 * i + 1) % 256 for i in range(32)))
    drawn = Randomness(bytes(range(8)), bytes(range(16, 32)), bytes(range(32, 48)), bytes(range(48, 64)), key)
    assert passphrase.seal(PLAIN, phrase(), 10_000, drawn) == KNOWN


def test_known_bytes_are_read() -> None:
    assert passphrase.import_passphrase(KNOWN, phrase()) == PLAIN


@pytest.mark.parametrize(
    "plain", [b"", b"\0\xff", PLAIN, b'.encoding = "UTF-8"\r\ndisplayName = "x"' + PLAIN]
)
def test_export_comes_back(plain: bytes) -> None:
    text = passphrase.export_passphrase(plain, phrase("pässwörd"), rounds=10)
    assert passphrase.import_passphrase(text, phrase("pässwörd")) == plain
    with pytest.raises(AuthenticationError, match="wrong passphrase"):
        passphrase.import_passphrase(text, phrase("passwort"))


def test_two_exports_share_nothing() -> None:
    first, second = (passphrase.export_passphrase(PLAIN, phrase(), rounds=10).splitlines() for _ in range(2))
    assert not set(first) & set(second)


def test_name_and_encoding_stay_in_clear() -> None:
    text = passphrase.export_passphrase(
        b'memsize = "1"\r\ndisplayName = "web01"\r\n.encoding = "GBK"', phrase(), 10
    )
    assert text.splitlines()[:2] == [b'.encoding = "GBK"', b'displayName = "web01"']


def test_clear_lines_come_back_where_the_sealed_ones_lack_them() -> None:
    text = passphrase.export_passphrase(b'DISPLAYNAME = "sealed"\n', phrase(), 10)
    clear = (
        b'# comment\r\n.encoding = "UTF-8"\r\nencryptedVM.guid = "{1}"\n'
        b'vmx.encryptionType = "partial"\ndisplayName = "x"\n'
    )
    assert (
        passphrase.import_passphrase(clear + text, phrase())
        == b'.encoding = "UTF-8"\nDISPLAYNAME = "sealed"\n'
    )


def test_the_second_passphrase_opens_too() -> None:
    text = passphrase.export_passphrase(PLAIN, phrase(), 10)
    pair = text[text.index(b"pair/") : text.index(b'))"') + 1]
    other = passphrase.export_passphrase(PLAIN, phrase("other"), 10)
    first = other[other.index(b"pair/") : other.index(b'))"') + 1]
    assert passphrase.import_passphrase(text.replace(pair, first + b"," + pair), phrase()) == PLAIN
