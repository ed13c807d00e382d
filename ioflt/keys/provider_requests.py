"""The requests to keyd about key providers and keys on their servers, for who administers these by keyd."""

from __future__ import annotations

from collections.abc import Sequence

from ioflt.errors import IofltError
from ioflt.keys.asking import Asker
from ioflt.keys.providers import InUse
from ioflt.types import KeyRef
from ioflt.wire import failure
from ioflt.wire.failure import Failure
from ioflt.wire.keyd import providers, replies, requests, values


class ProviderRequests(Asker):
    """Every call may raise DeniedError."""

    def locate_keys(self, provider: str, criteria: Sequence[requests.Criterion]) -> Sequence[str]:
        """Ids of keys on the servers of a provider. Raises UsageError for no value of an attribute."""
        return self._ask(requests.LocateKeys(provider, tuple(criteria)), replies.Located).ids

    def revoke_key(self, key: KeyRef, reason: values.Revocation) -> None:
        """End the key's use for new data, on its servers."""
        self._ask(requests.RevokeKey(values.Key.of(key), reason), replies.Done)

    def destroy_key(self, key: KeyRef) -> None:
        """Destroy the key on its servers. Raises KeyNotUsable when they refuse, as they do an active one."""
        self._ask(requests.DestroyKey(values.Key.of(key)), replies.Done)

    def about_provider(self, name: str) -> providers.About:
        """What may be known of a provider. Raises NotFoundError, DeniedError."""
        return self._ask(requests.GetProvider(name), replies.Provider).about

    def provider_default(self) -> tuple[str | IofltError, str | None]:
        """The provider of new keys, or why that is not clear, and the one that was chosen."""
        answer = self._ask(requests.GetProviderDefault(), replies.ProviderDefault)
        name = failure.rebuild(answer.name) if isinstance(answer.name, Failure) else answer.name
        return name, answer.chosen

    def provider_use(self, name: str) -> InUse:
        """Who needs a provider, as far as keyd knows. Raises DeniedError."""
        answer = self._ask(requests.GetProviderUse(name), replies.ProviderUse)
        return InUse(answer.named, answer.datastores)

    def look_at_servers(self, name: str) -> Sequence[providers.Shown]:
        """What the key servers of a provider show now. Raises DeniedError, ProviderUnavailable."""
        return self._ask(requests.LookAtServers(name), replies.ServersShown).shown

    def try_provider(self, name: str) -> Sequence[providers.Step]:
        """Each step of a provider's trial on its servers. Raises DeniedError, ProviderUnavailable."""
        return self._ask(requests.TryProvider(name), replies.Tried).steps

    def back_up_provider(self, asked: providers.BackUp) -> bytes:
        """The key of a native provider under a passphrase. Raises DeniedError, KeyUnavailableError."""
        return self._ask(requests.BackUpProvider(asked), replies.Data).value

    def change_provider(self, change: providers.Change) -> str:
        """The text that comes of it, empty where none does. Raises DeniedError, BusyError, and why not."""
        return self._ask(requests.ChangeProvider(change), replies.ProviderChanged).text
