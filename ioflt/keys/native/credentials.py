"""Sealing 32 bytes to this host with systemd-creds."""

from __future__ import annotations

from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, PeerError, ProviderUnavailable
from ioflt.keys.native import programs

_PROGRAM = "/usr/bin/systemd-creds"
_TIMEOUT_S = 30.0


def seal(name: str, key: Secret) -> bytes:
    """`key` as a credential of that name, under the host's key. Raises ProviderUnavailable."""
    return bytes(_run(["encrypt", "--with-key=host", f"--name={name}", "-", "-"], key).view())


def unseal(name: str, credential: bytes) -> Secret:
    """What `seal` got. Raises AuthenticationError when this host cannot open it, ProviderUnavailable."""
    try:
        return _run(["decrypt", f"--name={name}", "-", "-"], Secret(credential))
    except programs.NoAnswer as error:
        raise ProviderUnavailable(error.message) from error
    except PeerError as error:
        raise AuthenticationError("the credential does not open on this host", error.message) from error


def works() -> bool:
    """Whether this host seals and unseals."""
    try:
        with Secret.random(32) as probe, unseal("ioflt-probe", seal("ioflt-probe", probe)) as back:
            return probe == back
    except (ProviderUnavailable, PeerError, AuthenticationError):
        return False


def _run(arguments: list[str], given: Secret) -> Secret:
    """The program's output. Raises PeerError with its last line when it fails."""
    return programs.run(
        "systemd-creds",
        [_PROGRAM, *arguments],
        given,
        timeout=_TIMEOUT_S,
        env={"SYSTEMD_LOG_LEVEL": "warning"},
    )
