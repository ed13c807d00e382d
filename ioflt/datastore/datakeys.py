"""The data key of a container: out of its tokens, and into others."""

from __future__ import annotations

from dataclasses import replace

from ioflt.crypto.secret import Secret
from ioflt.errors import CorruptDataError, IofltError
from ioflt.format.luks2 import header as luks2
from ioflt.format.luks2.token import IofltToken
from ioflt.keys.service import KeyService
from ioflt.types import KeyRef


def rewrap(token: IofltToken, keys: KeyService, uuid: str, key: KeyRef) -> IofltToken:
    """A token for the same DEK of the container `uuid` under another KEK."""
    made = replace(token, key=key)
    return replace(made, blob=keys.rewrap(token.key, key, token.blob, token.aad(uuid), made.aad(uuid)))


def unwrap(header: luks2.Header, keys: KeyService) -> Secret:
    """The DEK of a container, by the first of its tokens that gives it. Raises the first token's error.

    Of several those come first whose keys keyd has in memory: another one's provider may hang.
    """
    ways = [list(header.tokens)]
    if len(header.tokens) > 1:
        states = keys.key_states([token.key for token in header.tokens], ask=False)
        known = [
            token for token, state in zip(header.tokens, states, strict=True) if state.source is not None
        ]
        ways = [known, [token for token in header.tokens if token not in known]]
    first: IofltError | None = None
    for tokens in filter(None, ways):
        answers = keys.unwrap([(token.key, token.blob, token.aad(header.uuid)) for token in tokens])
        deks = [answer for answer in answers if isinstance(answer, Secret)]
        for spare in deks[1:]:
            spare.wipe()
        if deks:
            return deks[0]
        first = first or next(answer for answer in answers if isinstance(answer, IofltError))
    raise first or CorruptDataError("no token")
