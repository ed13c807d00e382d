"""The whole error tree. The type says who is at fault; messages state facts, `cli` adds the advice.

IofltError
├── UsageError               the caller asked for something that makes no sense
├── DeniedError              the caller may not
│   └── UnshownError         keyd does not know whose the key is, and so not whether he may
├── NotFoundError            no such home, file, provider, mount
├── ChangesUnknownError      what changed since then was not tracked: a full backup is due
├── ExistsError              it is there already, and is not overwritten
├── BusyError                in use; try again later
├── ReadOnlyError            the home, mount or datastore takes no writes
├── CrossHomeError           a rename or link between homes of different keys or state
├── KeyUnavailableError      a key is needed and cannot be had
│   ├── ProviderUnavailable  the provider does not answer
│   ├── KeyNotFound          the provider answers: no such key
│   ├── KeyNotUsable         the provider answers: not with this key
│   ├── KeyCorrupt           the provider answers: something that is no key
│   └── ProviderLocked       the provider waits for its passphrase, or keyd was locked
├── CorruptDataError         bytes from the datastore are not what they must be
│   ├── MalformedError       they do not parse
│   ├── UnsupportedError     they parse and ask for something we refuse or do not know
│   └── AuthenticationError  their MAC or wrapped key does not verify
│       └── IntegrityError   the tags of a file's data do not verify, or are not there
├── StorageError             the datastore's file system failed (carries the errno)
├── PeerError                a daemon or program that we need misbehaved or is not there
└── BugError                 ours
"""

from __future__ import annotations

import os


class IofltError(Exception):
    """A failure that the user is told of in one line.

    `message` states what happened; `file` names the file, home or peer it happened to, if there is one.
    `vddk`: the name that VMware's VDDK has for it, where that does not follow from the type (`backup.vddk`).
    """

    vddk: str | None = None

    def __init__(self, message: str, *, file: str | os.PathLike[str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.file = None if file is None else os.fspath(file)

    def __str__(self) -> str:
        return self.message if self.file is None else f"{self.file}: {self.message}"


class UsageError(IofltError):
    """The request makes no sense; nothing was tried."""


class DeniedError(IofltError):
    """The caller lacks the right. Not used for keys that are merely out of reach."""


class UnshownError(DeniedError):
    """keyd has seen no record that says whose a key is. Who has one shows it, and asks again."""


class NotFoundError(IofltError):
    """The named thing does not exist."""


class ChangesUnknownError(IofltError):
    """What changed since the point that is asked about is not known, so that a full backup is due."""


class ExistsError(IofltError):
    """The named thing exists, and would have to be overwritten."""


class BusyError(IofltError):
    """In use by someone else now."""


class ReadOnlyError(IofltError):
    """Writes are refused; the message says by whom and why."""


class CrossHomeError(IofltError):
    """Source and target lie in homes of different keys or state: copy instead."""


class KeyUnavailableError(IofltError):
    """A key is needed and cannot be had now. Never says that data is damaged."""


class ProviderUnavailable(KeyUnavailableError):
    """The key provider does not answer."""


class KeyNotFound(KeyUnavailableError):
    """The provider answered: it has no such key (or no such provider is configured)."""


class KeyNotUsable(KeyUnavailableError):
    """The provider answered: the key may not be used for this."""


class KeyCorrupt(KeyUnavailableError):
    """The provider answered: what it gave as the key cannot be that key."""


class ProviderLocked(KeyUnavailableError):
    """The provider or the key cache is locked."""


class CorruptDataError(IofltError):
    """Bytes from the datastore are not what they must be; they were left as they are.

    `reason` is a short stable word pair ("bad magic", "null cipher"), which test vectors name.
    """

    def __init__(self, reason: str, detail: str = "", *, file: str | os.PathLike[str] | None = None) -> None:
        super().__init__(f"{reason} ({detail})" if detail else reason, file=file)
        self.reason = reason
        self.detail = detail


class MalformedError(CorruptDataError):
    """The bytes do not parse."""


class UnsupportedError(CorruptDataError):
    """The bytes parse, and ask for something that is refused or not known to this version."""


class AuthenticationError(CorruptDataError):
    """A MAC, digest or wrapped key does not verify: changed, or made with another key."""


class IntegrityError(AuthenticationError):
    """A file's data is not what was written last, as far as its tags tell, or has lost them.

    `sectors`: runs (first, number) of those that do not verify, where it is about some.
    """

    def __init__(
        self,
        reason: str,
        detail: str = "",
        *,
        file: str | os.PathLike[str] | None = None,
        sectors: tuple[tuple[int, int], ...] = (),
    ) -> None:
        super().__init__(reason, detail, file=file)
        self.sectors = sectors


class StorageError(IofltError):
    """The file system under the datastore failed. `errno` is what it answered."""

    def __init__(self, message: str, errno: int, *, file: str | os.PathLike[str] | None = None) -> None:
        super().__init__(f"{message}: {os.strerror(errno)}", file=file)
        self.errno = errno


class PeerError(IofltError):
    """A daemon or program that we need is not there or does not keep to the protocol."""


class BugError(IofltError):
    """An invariant of ours does not hold."""
