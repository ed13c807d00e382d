"""By which KEKs a stored file opens: the tokens of a container, the key-safe pairs of a VMX.

A token goes only from a file that was seen to open by each key that stays for it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from ioflt.datastore import atomic, datakeys, header
from ioflt.datastore.standing import Treatment
from ioflt.datastore.vmx import read_sealed
from ioflt.errors import AuthenticationError, IofltError
from ioflt.format.luks2 import header as luks2
from ioflt.format.luks2.token import IofltToken
from ioflt.format.vmx import sealed
from ioflt.keys.service import KeyService
from ioflt.types import KeyRef

#: Seconds for which another program may hold the lock on a header.
LOCK_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Change:
    """`ensure`: keys that must open the file; `drop`: keys that must not, none of them in `ensure`."""

    ensure: tuple[KeyRef, ...]
    drop: tuple[KeyRef, ...]

    def of(self, present: Sequence[KeyRef]) -> tuple[KeyRef, ...]:
        """The keys that a file ends with. Those of others, such as a person's own, stay."""
        others = [key for key in present if key not in self.ensure and key not in self.drop]
        return (*self.ensure, *others)

    def needed(self, present: Sequence[KeyRef]) -> bool:
        """Whether there is something to do."""
        return not set(self.ensure) <= set(present) or not set(self.drop).isdisjoint(present)


def named_keys(fd: int, treatment: Treatment) -> tuple[KeyRef, ...]:
    """The KEKs that an encrypted file names, unverified. Raises CorruptDataError."""
    if treatment is Treatment.VMX:
        return sealed.peek(os.pread(fd, sealed.PEEK_SIZE, 0)).keys
    return tuple(token.key for token in header.read_header(fd).tokens)


def needs(fd: int, treatment: Treatment, change: Change) -> bool:
    """Whether there is something to do to the file: also to a header whose older copy has other tokens."""
    return change.needed(named_keys(fd, treatment)) or (
        treatment is Treatment.CONTAINER and not header.is_whole(fd)
    )


def proven(
    found: luks2.Header, tokens: Sequence[IofltToken], keys: KeyService
) -> tuple[list[IofltToken], list[IofltError]]:
    """Which of a container's tokens have its DEK, and why not, for the others. The DEK stays with keyd."""
    digest = luks2.digest_of(found)
    answers = keys.prove([(token.key, token.blob, token.aad(found.uuid), digest) for token in tokens])
    good = [token for token, answer in zip(tokens, answers, strict=True) if answer is None]
    return good, [answer for answer in answers if answer is not None]


def prove(fd: int, treatment: Treatment, keys: KeyService, by: Sequence[KeyRef]) -> None:
    """Raises AuthenticationError unless each key of `by` opens the file; KeyUnavailableError."""
    if treatment is Treatment.VMX:
        keys.prove_vmx(read_sealed(fd), by)
    else:
        found = header.read_header(fd)
        _prove_tokens(found, found.tokens, keys, by)


def change_container(fd: int, keys: KeyService, change: Change) -> None:
    """Of the container `fd`, whose writer's lock the caller has. Waits for stock cryptsetup.

    Raises BusyError, CorruptDataError, KeyUnavailableError, UsageError when the header is full, OSError;
    then nothing was changed.
    """
    with header.locked(fd, wait=LOCK_WAIT_S):
        found = header.read_header(fd)
        if not needs(fd, Treatment.CONTAINER, change):
            return
        tokens = _tokens(found, keys, change)
        _prove_tokens(found, tokens, keys, change.ensure)
        header.change(fd, lambda newest: newest.with_tokens(tokens))


def check_room(fd: int, change: Change) -> None:
    """Raises UsageError when a container's header has no room for the tokens."""
    found = header.read_header(fd)
    some = found.tokens[0]
    blob = bytes(len(some.blob))
    wanted = change.of([token.key for token in found.tokens])
    found.with_tokens([IofltToken(key, some.thin, blob, some.tagged) for key in wanted])


def changed_vmx(text: bytes, keys: KeyService, change: Change) -> bytes | None:
    """The sealed text with the other pairs; None when it has them. Raises as `change_container`."""
    present = sealed.peek(text).keys
    if not change.needed(present):
        return None
    changed = keys.rewrap_vmx(text, change.of(present))
    keys.prove_vmx(changed, change.ensure)
    return changed


def change_vmx(fd: int, keys: KeyService, change: Change, place: tuple[int, int, str]) -> None:
    """Of the sealed VMX `fd` at `place`, whose writer's lock the caller has. Raises as `change_container`.

    Does nothing when another file has taken its name since. Nobody but keyd opens it.
    """
    top_fd, parent_fd, name = place
    text = changed_vmx(read_sealed(fd), keys, change)
    if text is None:
        return
    info = os.fstat(fd)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.stat(name, dir_fd=parent_fd, follow_symlinks=False), info):
            atomic.replace(top_fd, parent_fd, name, text, like=info)


def _tokens(found: luks2.Header, keys: KeyService, change: Change) -> list[IofltToken]:
    """The tokens that the container ends with; those that do not open are made again."""
    present = {token.key: token for token in found.tokens}
    good, errors = proven(found, found.tokens, keys)
    if not good:
        raise errors[0]
    stays = {key: token for key, token in present.items() if token in good or key not in change.ensure}
    return [
        stays.get(key) or datakeys.rewrap(good[0], keys, found.uuid, key) for key in change.of(list(present))
    ]


def _prove_tokens(
    found: luks2.Header, tokens: Sequence[IofltToken], keys: KeyService, by: Sequence[KeyRef]
) -> None:
    there = {token.key: token for token in tokens}
    if missing := [key for key in by if key not in there]:
        raise AuthenticationError("another key", f"no token for {missing[0]}")
    _, errors = proven(found, [there[key] for key in by], keys)
    for error in errors:
        raise error
