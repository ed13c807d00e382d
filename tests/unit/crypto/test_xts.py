"""The two sector loops: equal to each other, safe to share, and what happens without the C file."""

import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.crypto import xts
from ioflt.crypto.secret import Secret
from ioflt.errors import BugError

KEY = bytes(range(64))
LOOPS = [xts.PythonSectorCipher, *([xts.NativeSectorCipher] if xts.NATIVE else [])]

each_loop = pytest.mark.parametrize("loop", LOOPS)


@st.composite
def thin_bodies(draw: st.DrawFn) -> bytearray:
    """Up to 6 sectors, each all zero, zero but for one byte, or noise."""
    body = bytearray()
    for kind in draw(st.lists(st.sampled_from(("hole", "nearly", "noise")), max_size=6)):
        sector = bytearray(4096)
        if kind == "nearly":
            sector[draw(st.integers(0, 4095))] = draw(st.integers(1, 255))
        if kind == "noise":
            sector[:] = draw(st.randoms(use_true_random=False)).randbytes(4096)
        body += sector
    return body


@given(thin_bodies(), st.integers(0, 2**61 - 7), st.booleans())
def test_the_loops_agree(body: bytearray, sector: int, holes: bool) -> None:
    key = Secret(KEY)
    results = []
    for loop in LOOPS:
        decrypted, encrypted = bytearray(body), bytearray(body)
        loop(key).decrypt(decrypted, sector, holes=holes)
        loop(key).encrypt(encrypted, sector)
        results.append((decrypted, encrypted))
    assert all(result == results[0] for result in results)


@each_loop
@given(body=thin_bodies(), sector=st.integers(0, 2**61 - 7))
def test_what_was_encrypted_decrypts(loop: type[xts.SectorLoop], body: bytearray, sector: int) -> None:
    cipher, buffer = loop(Secret(KEY)), bytearray(body)
    cipher.encrypt(buffer, sector)
    cipher.decrypt(buffer, sector, holes=True)
    assert buffer == body


@each_loop
def test_one_call_is_as_many(loop: type[xts.SectorLoop]) -> None:
    cipher = loop(Secret(KEY))
    whole, pieces = bytearray(5 * 4096), bytearray(5 * 4096)
    cipher.encrypt(whole, 9)
    for n in range(5):
        cipher.encrypt(memoryview(pieces)[n * 4096 : (n + 1) * 4096], 9 + n)
    assert whole == pieces
    assert len({bytes(whole[n * 4096 : (n + 1) * 4096]) for n in range(5)}) == 5


@each_loop
def test_buffers_that_are_refused(loop: type[xts.SectorLoop]) -> None:
    cipher = loop(Secret(KEY))
    words = memoryview(bytearray(4096)).cast("I")
    for buffer in (bytes(4096), memoryview(bytes(4096)), memoryview(bytearray(8192))[::2], words):
        with pytest.raises(BugError, match="the buffer is not a plain writable one"):
            cipher.encrypt(buffer, 0)


@each_loop
def test_a_wiped_cipher_is_refused_and_the_key_given_stays_the_callers(loop: type[xts.SectorLoop]) -> None:
    key = Secret(KEY)
    cipher = loop(key)
    key.wipe()
    buffer = bytearray(4096)
    cipher.encrypt(buffer, 0)
    cipher.decrypt(buffer, 0, holes=False)
    assert buffer == bytes(4096)
    cipher.wipe()
    cipher.wipe()
    with pytest.raises(BugError, match="a wiped sector cipher is used"):
        cipher.encrypt(buffer, 0)
    assert buffer == bytes(4096)


@each_loop
def test_wiping_while_others_encrypt_spoils_nothing(loop: type[xts.SectorLoop]) -> None:
    """A call either finishes with the key, or is refused with its buffer untouched."""
    expected = bytearray(64 * 4096)
    loop(Secret(KEY)).encrypt(expected, 0)
    for _ in range(5):
        cipher, begun, spoilt = loop(Secret(KEY)), threading.Barrier(3), []

        def work(
            cipher: xts.SectorLoop = cipher, begun: threading.Barrier = begun, out: list = spoilt
        ) -> None:
            begun.wait()
            for _ in range(10):
                buffer = bytearray(64 * 4096)
                try:
                    cipher.encrypt(buffer, 0)
                except BugError:
                    out.append(any(buffer))
                    return
                out.append(buffer != expected)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        begun.wait()
        cipher.wipe()
        for thread in threads:
            thread.join()
        assert not any(spoilt)


WITHOUT_NATIVE = """
import sys, warnings
sys.modules["ioflt.crypto._sectors"] = None  # an import of it fails, as where it was not built
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from ioflt.crypto import xts
    from ioflt.crypto.secret import Secret
assert [w.category for w in caught] == [RuntimeWarning], caught
assert "was not built" in str(caught[0].message)
assert xts.SectorCipher is xts.PythonSectorCipher and not xts.NATIVE
buffer = bytearray(4096)
xts.SectorCipher(Secret(bytes(range(64)))).encrypt(buffer, 1)
print(buffer[:16].hex())
"""


def test_without_the_c_file_it_warns_and_works() -> None:
    run = subprocess.run([sys.executable, "-c", WITHOUT_NATIVE], capture_output=True, text=True, check=True)
    buffer = bytearray(4096)
    xts.SectorCipher(Secret(KEY)).encrypt(buffer, 1)
    assert run.stdout.strip() == buffer[:16].hex()
