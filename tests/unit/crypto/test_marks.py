"""Marks, judged by PyCryptodome."""

from __future__ import annotations

from Crypto.Cipher import AES

from ioflt.crypto import marks
from ioflt.crypto.marks import MARK_SIZE, Marks

DATA = b"the canary sings" * 64


def test_a_mark_is_gmac_of_data_under_the_number(monkeypatch):
    monkeypatch.setattr(marks, "random_bytes", lambda count: bytes(range(count)))
    for number in (0, 1, 1 << 40):
        judge = AES.new(bytes(range(32)), AES.MODE_GCM, nonce=number.to_bytes(12))
        judge.update(DATA)
        assert Marks().of(number, DATA) == judge.digest()


def test_other_data_and_another_number_have_other_marks() -> None:
    mine = Marks()
    mark = mine.of(7, DATA)
    assert len(mark) == MARK_SIZE
    assert mine.of(7, memoryview(bytearray(DATA))) == mark
    others = {mine.of(8, DATA), mine.of(7, DATA[:-1]), mine.of(7, DATA + b"\0"), mine.of(7, b"T" + DATA[1:])}
    assert mark not in others | {Marks().of(7, DATA)}
