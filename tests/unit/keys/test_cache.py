"""KEKs in memory: found by name, wiped, and the oldest gives way."""

import mmap
from pathlib import Path

import pytest

from ioflt.crypto.secret import Secret
from ioflt.keys import cache
from ioflt.keys.cache import KeyCache
from ioflt.types import KeyRef


def key(number):
    return Secret(bytes([number]) * 32)


def test_a_key_is_found_by_its_reference():
    keys = KeyCache(4)
    keys.put(KeyRef("a", "1"), key(1))
    keys.put(KeyRef("b", "1"), key(2))
    assert keys.get(KeyRef("a", "1")) == key(1)
    assert keys.get(KeyRef("b", "1")) == key(2)
    assert keys.get(KeyRef("a", "2")) is None
    assert len(keys) == 2
    assert KeyRef("a", "1") in keys


def test_what_get_gives_is_a_copy():
    keys = KeyCache(4)
    keys.put("a", key(1))
    keys.get("a").wipe()
    assert keys.get("a") == key(1)


def test_a_name_has_one_key():
    keys = KeyCache(4)
    keys.put("a", key(1))
    keys.put("a", key(2))
    assert keys.get("a") == key(2)
    assert len(keys) == 1


def test_the_oldest_gives_way():
    keys = KeyCache(2)
    assert [keys.put(name, key(number)) for number, name in enumerate("abc")] == [None, None, "a"]
    assert keys.get("a") is None
    assert (keys.get("b"), keys.get("c")) == (key(1), key(2))


def test_wipe_leaves_only_zeros():
    keys = KeyCache(8)
    for number in range(1, 9):
        keys.put(number, key(number))
    keys.drop_if(lambda name: name == 3)
    keys.drop(5)
    keys.drop(99)
    assert (keys.get(3), keys.get(4), keys.get(5)) == (None, key(4), None)
    keys.wipe()
    assert len(keys) == 0
    assert not any(keys._memory)


def test_the_kernel_hides_the_memory():
    keys = KeyCache(8)
    if keys.kind != "memfd_secret":
        pytest.skip("no memfd_secret here")
    assert "/secretmem" in Path("/proc/self/maps").read_text()


class NoSecretMemory:
    """The C library of a kernel without memfd_secret."""

    def __init__(self, library, locks):
        self.library = library
        self.locks = locks

    def syscall(self, *_):
        return -1

    def mlock(self, *arguments):
        return self.library.mlock(*arguments) if self.locks else -1


@pytest.mark.parametrize(("locks", "kind"), [(True, "mlock"), (False, "plain")])
def test_without_secret_memory(locks, kind, monkeypatch):
    monkeypatch.setattr(cache, "_libc", NoSecretMemory(cache._libc, locks))
    keys = KeyCache(8)
    keys.put("a", key(1))
    assert keys.kind == kind
    assert keys.get("a") == key(1)
    assert isinstance(keys._memory.obj, mmap.mmap)
