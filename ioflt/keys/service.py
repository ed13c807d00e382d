"""What keyd does for the rest of ioflt: what its client asks, and what keyd itself is without sockets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ioflt.crypto.secret import Secret
from ioflt.errors import IofltError
from ioflt.format.luks2.profile import Digest
from ioflt.keys.state import KeyState
from ioflt.types import KeyRef
from ioflt.wire.keyd import replies
from ioflt.wire.keyd.replies import CachedKey
from ioflt.wire.keyd.values import LockMode


class KeyService(Protocol):
    """All that can be asked of keyd. Blocking, safe for calls from several threads.

    Every call may raise KeyUnavailableError (ProviderLocked while keyd is locked), PeerError, DeniedError.
    """

    def default_provider(self) -> str:
        """The provider of new keys: the only one there is, else `local`, which is made at first use."""
        ...

    def new_key(self, provider: str | None = None, *, within: str | None = None) -> KeyRef:
        """A new KEK, of that provider, else of the default one; first of that of the folder which lists the
        datastore of the id `within`, if it has one.
        """
        ...

    def use_key(self, key: KeyRef) -> None:
        """Have a KEK that is there ready for new data. Raises KeyNotUsable when its provider forbids that."""
        ...

    def generate(self, key: KeyRef, aads: Sequence[bytes]) -> list[tuple[Secret, bytes]]:
        """For each AAD a new 64-byte DEK and its blob under that KEK."""
        ...

    def unwrap(self, items: Sequence[tuple[KeyRef, bytes, bytes]]) -> list[Secret | IofltError]:
        """For each (key, blob, AAD) its DEK, or why there is none.

        AuthenticationError: the three do not belong together.
        """
        ...

    def rewrap(self, key_from: KeyRef, key_to: KeyRef, blob: bytes, aad_from: bytes, aad_to: bytes) -> bytes:
        """The same DEK under another KEK or AAD."""
        ...

    def check_record(
        self, payload: bytes, tags: Sequence[bytes], by: Sequence[KeyRef], shown: str = ""
    ) -> list[bool | IofltError]:
        """For each of the keys whether it MACed that record, or why that is not known.

        Each has its own tag, except of a clear home, where any will do. A record that holds tells keyd whose
        the keys are, and what to call it. Raises CorruptDataError for what is no record.
        """
        ...

    def seal_record(
        self, by: Sequence[KeyRef], old: bytes | None, payload: bytes, shown: str = ""
    ) -> list[bytes]:
        """The MACs of a record by each of the keys, which are those that it says, or its datastore's.

        `old`: the record file that it replaces. Raises CorruptDataError for what is no record.
        """
        ...

    def prove(self, items: Sequence[tuple[KeyRef, bytes, bytes, Digest]]) -> list[IofltError | None]:
        """For each (key, blob, AAD, digest) why the three do not give a DEK of that digest, None: they do.

        The DEK stays with keyd.
        """
        ...

    def prove_vmx(self, text: bytes, by: Sequence[KeyRef]) -> None:
        """Each of the keys opens the sealed VMX, and to the same content; none: any key that can be had.

        Raises CorruptDataError.
        """
        ...

    def seal_vmx(self, key: KeyRef, plaintext: bytes, file_id: int) -> bytes:
        """A new sealed VMX, with a configuration key of its own."""
        ...

    def rewrap_vmx(self, text: bytes, keys: Sequence[KeyRef]) -> bytes:
        """The same sealed VMX with a key-safe pair for each of these keys. Raises CorruptDataError too."""
        ...

    def config_key(self, text: bytes, key: KeyRef | None = None) -> Secret:
        """What the content of a sealed VMX is under (32 bytes), by that key or any that can be had.

        It stays as long as the file does. Raises CorruptDataError too.
        """
        ...

    def key_states(self, keys: Sequence[KeyRef], *, ask: bool = True) -> list[KeyState]:
        """What keyd knows of each key, once its provider was asked for it.

        `ask=False` asks no provider: what it said last counts.
        """
        ...

    def cached_keys(self, after: KeyRef | None = None) -> Sequence[CachedKey]:
        """Keys in memory, in order: the first page, or the next after that key. The last page is empty."""
        ...

    def set_key_cache(self, provider: str, days: int | None) -> None:
        """Seal the keys of a provider to this host, for so many days after it gave them; None: no more.

        UsageError: it has no servers. NotFoundError. PeerError: nothing here seals keys to this host.
        """
        ...

    def forget_key(self, key: KeyRef) -> None:
        """Forget a KEK, sealed or not; its provider is asked for it again when it is needed."""
        ...

    def remove_key(self, key: KeyRef) -> None:
        """Forget a KEK and do without it on this host, until `add_key`."""
        ...

    def add_key(self, key: KeyRef) -> None:
        """Take back `remove_key`."""
        ...

    def erase_key(self, key: KeyRef, home_id: str) -> bool:
        """Revoke and destroy the key of that VM on its servers, and forget it; also one that is gone already.

        False for a key that is derived from its provider's one key: it is removed from this host. Raises
        BusyError when keyd knows of others that have it.
        """
        ...

    def note_generation(self, keys: Sequence[KeyRef], home_id: str, generation: int) -> None:
        """Note with the home's keys how far it came, where their providers can and answer."""
        ...

    def seen_generation(self, keys: Sequence[KeyRef], home_id: str) -> tuple[int, bool]:
        """The highest generation noted with one of the keys, 0 if none was; whether that is all there is.

        Not while a provider does not answer that may have noted one.
        """
        ...

    def policies(self) -> bytes:
        """The text of the host's own storage policies. Raises CorruptDataError, StorageError."""
        ...

    def add_policy(self, text: bytes) -> None:
        """Keep the one policy in that text. Raises ExistsError, UsageError, and as `policies`."""
        ...

    def remove_policy(self, name: str) -> None:
        """Forget that policy. Raises NotFoundError; UsageError for a bundled one; and as `policies`."""
        ...

    def key_holders(self) -> Sequence[str]:
        """Ids of the homes that are marked as VMs from which the keys come."""
        ...

    def mark_key_holder(self, home_id: str, *, holds: bool) -> None:
        """Mark a home so, or take the mark away. Raises UsageError when too many are, StorageError."""
        ...

    def status(self) -> replies.Status:
        """What keyd is, and its providers."""
        ...

    def lock(self, mode: LockMode) -> replies.Locked:
        """Lock all mounts and forget all KEKs.

        With open files: "refuse" raises BusyError and changes nothing, "suspend" makes their I/O wait,
        "force" makes it fail.
        """
        ...

    def unlock(self, provider: str | None = None, passphrase: Secret | None = None) -> None:
        """End `lock`; and make that provider ready, with its passphrase when it needs one."""
        ...

    def reload(self) -> None:
        """Read the provider files again."""
        ...

    def warnings(self) -> list[str]:
        """What the user must hear with every command, such as a provider that was never backed up."""
        ...
