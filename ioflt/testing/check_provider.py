"""The contract of a key provider, as a function that any implementation is run through."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from ioflt.crypto.secret import Secret
from ioflt.errors import KeyNotFound, KeyNotUsable, ProviderLocked
from ioflt.keys.provider import KEK_SIZE, KeyProvider
from ioflt.types import MAX_KEY_ID


def check_provider(open_again: Callable[[], KeyProvider], passphrase: Secret | None = None) -> None:
    """Run a provider through its contract. Raises AssertionError.

    `open_again` gives the provider as after a restart; `passphrase` is the one that it waits for, if any.
    """
    provider = _ready(open_again, passphrase)
    first, second = provider.create(), provider.create()
    _check_ids(first, second)
    _check_keys(provider, first, second)
    _check_many(provider, first, second)
    _check_generations(provider, first, second)
    _check_after_restart(_ready(open_again, passphrase), first, provider)
    _check_lock(provider, first, passphrase)
    if passphrase is not None:
        _check_waits(open_again(), first)


def _ready(open_again: Callable[[], KeyProvider], passphrase: Secret | None) -> KeyProvider:
    provider = open_again()
    if passphrase is not None:
        provider.unlock(passphrase)
    status = provider.status()
    assert (status.name, status.state, status.reason) == (provider.name, "ready", "")
    assert status.slots
    return provider


def _check_ids(first: str, second: str) -> None:
    assert first != second
    for key_id in (first, second):
        assert 0 < len(key_id) <= MAX_KEY_ID
        assert key_id.isprintable()


def _check_keys(provider: KeyProvider, first: str, second: str) -> None:
    """Answers are in the order of the ids, an unknown one harms no other, and no key is another's."""
    assert provider.get([]) == []
    one, unknown, two, again = provider.get([first, f"{first}-not-made-here", second, first])
    assert isinstance(one, Secret)
    assert isinstance(two, Secret)
    assert len(one) == len(two) == KEK_SIZE
    assert one == again != two
    assert not isinstance(unknown, Secret) or unknown not in (one, two)
    (foreign,) = provider.get(["not-made-here"])
    assert isinstance(foreign, KeyNotFound)


def _check_many(provider: KeyProvider, first: str, second: str) -> None:
    """Hundreds at once, some unknown, from several threads: each its own answer, at its place."""
    unknown = "not-made-here"
    ids = [first, second, unknown, first] * 60
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(provider.get, [ids, ids[::-1], ids[:3], [second] * 5]))
    (one, two) = provider.get([first, second])
    expected = {first: one, second: two}
    for asked, found in zip([ids, ids[::-1], ids[:3], [second] * 5], answers, strict=True):
        assert len(found) == len(asked)
        for key_id, key in zip(asked, found, strict=True):
            if key_id == unknown:
                assert isinstance(key, KeyNotFound)
            else:
                assert isinstance(key, Secret)
                assert key == expected[key_id]


def _check_generations(provider: KeyProvider, first: str, second: str) -> None:
    """Who keeps them keeps the highest, for each key and home; who cannot has none."""
    keeper, home, other = provider.generations, str(uuid4()), str(uuid4())
    if keeper is None:
        return
    for generation in (3, 5, 4):
        keeper.note(first, home, generation)
    keeper.note(first, other, 9)
    found = [keeper.seen(first, home), keeper.seen(first, other), keeper.seen(second, home)]
    assert found in ([5, 9, 0], [0, 0, 0])


def _check_after_restart(restarted: KeyProvider, key_id: str, before: KeyProvider) -> None:
    assert restarted.get([key_id]) == before.get([key_id])


def _check_lock(provider: KeyProvider, key_id: str, passphrase: Secret | None) -> None:
    kept = provider.get([key_id])
    provider.lock()
    assert provider.status().state == "locked"
    _check_waits(provider, key_id)
    if passphrase is not None:
        _check_refuses_wrong_passphrase(provider)
    provider.unlock(passphrase)
    assert provider.get([key_id]) == kept


def _check_waits(provider: KeyProvider, key_id: str) -> None:
    assert all(isinstance(answer, ProviderLocked) for answer in provider.get([key_id, key_id]))
    try:
        provider.create()
    except ProviderLocked:
        return
    raise AssertionError("a locked provider made a key")


def _check_refuses_wrong_passphrase(provider: KeyProvider) -> None:
    for wrong in (None, Secret(b"not the passphrase")):
        try:
            provider.unlock(wrong)
        except (KeyNotUsable, ProviderLocked):
            assert provider.status().state == "locked"
        else:
            raise AssertionError("a wrong passphrase opened the provider")
