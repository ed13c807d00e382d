"""Advice for providers, their slots and their backups. See `advice`."""

from __future__ import annotations

from ioflt import errors
from ioflt.cli.key_advice import Row, provider_of

_PROVIDERS = "see the providers that are here: ioflt provider list"

PROVIDERS: tuple[Row, ...] = (
    (errors.NotFoundError, "no provider .* is configured", lambda _: "ioflt provider list"),
    (
        errors.ExistsError,
        "provider .* exists (already|here)",
        lambda _: f"give it another name; {_PROVIDERS}",
    ),
    (
        errors.UsageError,
        "not a provider name",
        lambda _: "letters, digits, dots, dashes and underscores, at most 64, the first a letter or digit",
    ),
    (errors.UsageError, "has no key servers$|is not a native one", lambda _: _PROVIDERS),
    (
        errors.ExistsError,
        "has a slot of the kind passphrase",
        lambda error: f"change it: ioflt provider passwd {provider_of(error)}",
    ),
    (
        errors.ExistsError,
        "has a slot of the kind",
        lambda error: (
            f"make it anew: ioflt provider slot remove {provider_of(error)} KIND, then add it again"
        ),
    ),
    (
        errors.NotFoundError,
        "has no slot of the kind",
        lambda error: f"see those that it has: ioflt provider slot list {provider_of(error)}",
    ),
    (
        errors.UsageError,
        "not a thumbprint",
        lambda _: "on the server, tang-show-keys prints the thumbprint",
    ),
    (
        errors.UsageError,
        "belongs to no private key",
        lambda error: (
            "give the certificate that was made of its last request; for a new request:"
            f" ioflt provider renew {provider_of(error)} OUT --csr"
        ),
    ),
    (
        errors.UsageError,
        "several providers and none is|the default for new keys, is not here",
        lambda _: "choose one of ioflt provider list: ioflt provider default NAME",
    ),
    (
        errors.UsageError,
        "too few shares|mixed shares|share number .* is given twice",
        lambda _: (
            "nothing was changed; name different files of one set: ioflt provider restore FILE FILE ..."
        ),
    ),
    (
        errors.UsageError,
        "last slot of the provider",
        lambda error: f"add another one first: ioflt provider slot add {provider_of(error)} KIND",
    ),
    (
        errors.NotFoundError,
        "has no passphrase",
        lambda error: f"give it one: ioflt provider slot add {provider_of(error)} passphrase",
    ),
    (
        errors.UsageError,
        "needs --url and --thumbprint",
        lambda _: "on the server, tang-show-keys prints the thumbprint",
    ),
)
