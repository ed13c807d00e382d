"""Every row of the table of advice is the one that some error gets, and no row before it takes all of them.

The errors are those that the sources raise: each call of an error's class, with `X` for what is filled in. Of
messages that are put together elsewhere there is an example, of which the words stand in the sources.
"""

from __future__ import annotations

import ast
import errno
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import ioflt
from ioflt import errors
from ioflt.cli.advice import ADVICE

SOURCES = [
    path
    for path in sorted(Path(ioflt.__file__).parent.rglob("*.py"))
    if ("testing" not in path.parts or "testbed" in path.parts)
    and path.name not in ("advice.py", "disk_advice.py", "key_advice.py", "hints.py")
]
CLASSES = {
    name: kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.IofltError)
}

#: An error whose message is put together, and the words of it that stand in the sources. The others are of a
#: server or a program.
COMPOSED: list[tuple[errors.IofltError, tuple[str, ...]]] = [
    (errors.StorageError("the destination failed", errno.EROFS), ("the destination failed",)),
    (
        errors.PeerError("does not answer by a greeting: it serves one client at a time"),
        ("does not answer {}", "by a greeting: it serves one client at a time"),
    ),
    (
        errors.PeerError("QEMU refuses blockdev-add: Failed to connect to '/run/nbd': Permission denied"),
        ("QEMU refuses {}: {}", "blockdev-add"),
    ),
    (
        errors.KeyNotUsable("the key server of corp, key ioflt: 1 error occurred: * permission denied"),
        ("the key server of {}, key {}",),
    ),
    (
        errors.KeyNotFound("the token of corp: it has no AES key ioflt"),
        ("the token of {}", "it has no AES key {}"),
    ),
    (
        errors.KeyNotUsable("the token of corp: its PIN has expired"),
        ("the token of {}", "its PIN has expired"),
    ),
    (
        errors.ProviderUnavailable("the servers of the provider corp are not trusted yet"),
        ("the servers of the provider {} are not trusted yet",),
    ),
    (
        errors.ProviderUnavailable("the key server of corp: its certificate is refused: expired"),
        ("the key server of {}", "its certificate is refused: {}"),
    ),
    (
        errors.ProviderUnavailable("the provider corp has no client certificate yet"),
        ("the provider {} has no client certificate yet",),
    ),
    (
        errors.ProviderUnavailable("kms1:5696 does not show its certificate: TLS: handshake failure"),
        ("{} does not show its certificate: {}", "TLS: {}"),
    ),
    (
        errors.KeyNotUsable("wrong passphrase, or the backup was changed"),
        ("wrong passphrase, or the backup was changed",),
    ),
    (
        errors.KeyNotUsable("the key was removed from this host"),
        ("the key was removed from this host",),
    ),
    (
        errors.KeyNotFound("the key 12 of corp is not there (Item Not Found)"),
        ("the key {} of {}", "{} is not there ({})"),
    ),
    (
        errors.ReadOnlyError("it was rolled back: its record has generation 1, this host has seen 2"),
        ("it was rolled back: its record has {}", "generation {}, this host has seen {}"),
    ),
    (
        errors.ReadOnlyError("the same VM is in /ds/copy, too (a raw copy)"),
        ("the same VM is in {}, too (a raw copy)",),
    ),
    (
        errors.DeniedError("permission denied: Authorization.ModifyPermissions on web01"),
        ("permission denied: {} on {}",),
    ),
    (
        errors.DeniedError("permission denied: Cryptographer.Access on a, which has the key of b as well"),
        ("permission denied: {} on {}", ", which has the key of {} as well"),
    ),
    (
        errors.ReadOnlyError("the decryption of its disk a.vmdk was interrupted; `…` resumes it"),
        ("the decryption of its disk {}", "{} was interrupted; `{}` resumes it"),
    ),
    (
        errors.UsageError("the encryption of its disk a.vmdk was interrupted, and comes first"),
        ("the {} of its disk {}", "{} was interrupted, and comes first"),
    ),
    (
        errors.ReadOnlyError("its decryption was interrupted; `…` resumes it"),
        ("its decryption", "{} was interrupted; `{}` resumes it"),
    ),
    (
        errors.PeerError("cannot mount: option allow_other only allowed if 'user_allow_other' is set"),
        ("cannot mount: {}",),
    ),
    (
        errors.ExistsError("the provider corp has a slot of the kind passphrase"),
        ("the provider {} has a slot of the kind {}", "passphrase"),
    ),
    (
        errors.UsageError("not a thumbprint for a slot: 'abc'"),
        ("not a {} for a slot: {}", "thumbprint"),
    ),
]


@cache
def trees() -> list[ast.Module]:
    return [ast.parse(path.read_text()) for path in SOURCES]


def filled(node: ast.expr) -> str | None:
    """The text of a string's expression; None for what is no string literal."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(filled(value) or "X" for value in values)
    return None


def raised() -> Iterator[errors.IofltError]:
    """The errors whose messages stand in the sources."""
    for tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            texts = [filled(argument) for argument in node.args[:2]]
            if name in CLASSES and texts[0] is not None:
                kind = CLASSES[name]
                if issubclass(kind, errors.StorageError):
                    for number in (errno.EIO, errno.ENOSPC, errno.ENOENT, errno.EACCES):
                        yield kind(texts[0], number)
                elif issubclass(kind, errors.CorruptDataError):
                    yield kind(*(text or "X" for text in texts))
                else:
                    yield kind(texts[0])


def row_of(error: errors.IofltError) -> int | None:
    return next(
        (
            number
            for number, (kind, pattern, _) in enumerate(ADVICE)
            if isinstance(error, kind) and re.search(pattern, error.message)
        ),
        None,
    )


@cache
def words() -> str:
    """All text in the sources, `{}` for what is filled in."""
    found = []
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(value.value if isinstance(value, ast.Constant) else "{}" for value in node.values)
                )
    return "\n".join(found)


REACHED = {row_of(error) for error in raised()} | {row_of(error) for error, _ in COMPOSED}


@pytest.mark.parametrize("number", range(len(ADVICE)), ids=lambda number: ADVICE[number][1] or "any")
def test_a_row_is_what_some_error_gets(number: int) -> None:
    assert number in REACHED


@pytest.mark.parametrize(("error", "said"), COMPOSED, ids=lambda value: getattr(value, "message", ""))
def test_the_examples_are_true(error: errors.IofltError, said: tuple[str, ...]) -> None:
    for text in said:
        assert text in words()
        assert re.search(re.escape(text).replace(r"\{\}", ".*"), error.message)
