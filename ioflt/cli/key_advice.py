"""Advice for errors of keys that cannot be had: the rows of `advice` that concern providers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

from ioflt import errors

#: A class of errors, a pattern of their messages, and what to tell who gets one.
Row = tuple[type[errors.IofltError], str, Callable[[errors.IofltError], str]]


def provider_of(error: errors.IofltError) -> str:
    """The provider that the message names."""
    for pattern in (
        r"\bprovider ([\w.-]+)",
        r"\b(?:servers?|token) of ([\w.-]+)",
        r"\bkey \S+ of ([\w.-]+)",
    ):
        name = re.search(pattern, error.message)
        if name:
            return shlex.quote(name[1])
    return "NAME"


#: In order, as all of `ADVICE`.
KEYS: tuple[Row, ...] = (
    (
        errors.ProviderLocked,
        "waits for its (passphrase|PIN)|^the token of ",
        lambda error: f"ioflt keyd unlock {provider_of(error)}",
    ),
    (errors.ProviderLocked, "", lambda _: "unlock the keys: ioflt keyd unlock"),
    (
        errors.KeyNotUsable,
        "key server of .*, key .*permission denied",
        lambda _: "have its policy allow `update` on the engine's encrypt/KEY and decrypt/KEY",
    ),
    (
        errors.KeyUnavailableError,
        "key server of .*(, key | has no engine )",
        lambda error: (
            f"have who runs the server look at that key, then: ioflt provider test {provider_of(error)}"
        ),
    ),
    (
        errors.KeyUnavailableError,
        "^the token of .* key ",
        lambda error: (
            f"have who runs the token look at that key, then: ioflt provider test {provider_of(error)}"
        ),
    ),
    (
        errors.KeyNotUsable,
        "^the token of .* PIN (is locked|has expired)|has no PIN yet",
        lambda error: f"have who runs the token set a PIN, then: ioflt keyd unlock {provider_of(error)}",
    ),
    (errors.KeyUnavailableError, "package python-pkcs11", lambda _: "pip install 'ioflt[pkcs11]'"),
    (
        errors.KeyUnavailableError,
        "package tpm2-pytss",
        lambda _: "pip install 'ioflt[tpm]', which needs the package libtss2-dev",
    ),
    (
        errors.KeyNotFound,
        "^the key .* is not there",
        lambda error: f"see what its servers hold: ioflt key locate {provider_of(error)}",
    ),
    (
        errors.KeyNotFound,
        "",
        lambda _: (
            "see which providers this machine knows: ioflt provider list;"
            " bring one back from its backup: ioflt provider restore FILE"
        ),
    ),
    (
        errors.ProviderUnavailable,
        "are not trusted yet",
        lambda error: f"ioflt provider trust {provider_of(error)}",
    ),
    (
        errors.ProviderUnavailable,
        "no client certificate yet",
        lambda error: f"ioflt provider trust {provider_of(error)} --certificate FILE",
    ),
    (
        errors.ProviderUnavailable,
        "does not show its certificate: .*(TLS|ended)",
        lambda _: "give the certificate of who issued it: ioflt provider trust NAME --ca FILE",
    ),
    (
        errors.ProviderUnavailable,
        r"does not show its certificate|^\S+: no answer within",
        lambda _: "see that the server runs, and that this is its name and port",
    ),
    (errors.ProviderUnavailable, "did not pass", lambda _: "the lines above say which step failed, and why"),
    (
        errors.ProviderUnavailable,
        "whether it did what was asked is not known$",
        lambda error: f"look for a new key: ioflt key locate {provider_of(error)}",
    ),
    (
        errors.ProviderUnavailable,
        "certificate is refused",
        lambda error: (
            "the server is to be named as its certificate has it, which is issued by who is trusted:"
            f" ioflt provider trust {provider_of(error)} --ca FILE"
        ),
    ),
    (
        errors.ProviderUnavailable,
        "key server|^the token of |logs in",
        lambda error: f"try each step: ioflt provider test {provider_of(error)}",
    ),
    (errors.ProviderUnavailable, "", lambda _: "see what the key daemon knows: ioflt keyd status"),
    (
        errors.KeyNotUsable,
        "until it was backed up",
        lambda error: f"keep its key elsewhere first: ioflt provider backup {provider_of(error)} FILE",
    ),
    (
        errors.KeyNotUsable,
        "backup was changed",
        lambda _: "nothing was changed; try again, or another backup",
    ),
    (errors.KeyNotUsable, "wrong (passphrase|PIN)", lambda _: "nothing was changed; try again"),
    (errors.KeyCorrupt, "", lambda error: f"try each step: ioflt provider test {provider_of(error)}"),
    (
        errors.KeyNotUsable,
        "may protect nothing new",
        lambda error: f"name another one: ioflt key locate {provider_of(error)} --state active",
    ),
    (
        errors.KeyNotUsable,
        "removed from this host",
        lambda _: "see the keys of a datastore: ioflt key list DIR; take it back: ioflt key add ID",
    ),
    (
        errors.KeyNotUsable,
        "has no passphrase",
        lambda error: f"see what opens it: ioflt provider slot list {provider_of(error)}",
    ),
    (errors.KeyNotUsable, "", lambda _: "see the providers and their keys: ioflt provider list"),
)
