"""Sealing 32 bytes to this host with systemd-creds, by pipes: nothing secret in argv, environment, files."""

from __future__ import annotations

import contextlib
import subprocess

from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, BugError, PeerError, ProviderUnavailable

_PROGRAM = "/usr/bin/systemd-creds"
_MAX_OUTPUT = 16384


def seal(name: str, key: Secret) -> bytes:
    """`key` as a credential of that name, under the host's key. Raises ProviderUnavailable."""
    return bytes(_run(["encrypt", "--with-key=host", f"--name={name}", "-", "-"], key).view())


def unseal(name: str, credential: bytes) -> Secret:
    """What `seal` got. Raises AuthenticationError when this host cannot open it, ProviderUnavailable."""
    try:
        return _run(["decrypt", f"--name={name}", "-", "-"], Secret(credential))
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
    try:
        process = subprocess.Popen(
            [_PROGRAM, *arguments],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "SYSTEMD_LOG_LEVEL": "warning"},
        )
    except OSError as error:
        raise ProviderUnavailable(f"systemd-creds: {error.strerror}") from error
    with process:
        return _talk(process, given)


def _talk(process: subprocess.Popen[bytes], given: Secret) -> Secret:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise BugError("a program was started without pipes")
    # What is written fits into a pipe, so nobody waits for the other. Read into memory that can be wiped.
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(given.view())
    process.stdin.close()
    output = Secret.allocate(_MAX_OUTPUT)
    count = 0
    while read := process.stdout.readinto(output.buffer()[count:]):  # type: ignore[attr-defined]  # it is a FileIO
        count += read
    complaint = process.stderr.read(_MAX_OUTPUT).decode(errors="backslashreplace").strip()
    with output:
        if process.wait() != 0 or count == 0:
            raise PeerError(f"systemd-creds: {complaint or 'no output'}")
        return Secret(output.view()[:count])
