"""The `Service` as one connection sees it: each request is permitted first, by who asks and for what."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from ioflt.access import objects
from ioflt.access.objects import ANYWHERE
from ioflt.access.operations import OPERATIONS
from ioflt.access.privileges import Privilege
from ioflt.access.view import place_of
from ioflt.audit.attestation import Statement
from ioflt.audit.event import added
from ioflt.audit.reader import Page
from ioflt.crypto.mac import sha256
from ioflt.crypto.secret import Secret
from ioflt.datastore import seen
from ioflt.errors import BusyError, DeniedError, IofltError, ProviderLocked, UnshownError, UsageError
from ioflt.format.luks2.profile import Digest
from ioflt.format.vmx import sealed
from ioflt.keyd import reports
from ioflt.keyd.exporting import Exporting
from ioflt.keyd.permits import Permits, Rules
from ioflt.keyd.providers import privilege as provider_privilege
from ioflt.keyd.recorder import event
from ioflt.keyd.records import Records
from ioflt.keyd.service import Service
from ioflt.keyd.session import Session
from ioflt.keyd.telling import Telling
from ioflt.keyd.vouching import Vouching
from ioflt.keyd.watching import Watching
from ioflt.keys.kmip.file import KmipServer
from ioflt.keys.state import KeyState
from ioflt.keys.trial import Step
from ioflt.policy import text as policy_text
from ioflt.policy.model import StoragePolicy
from ioflt.types import KeyRef
from ioflt.wire.frame import wipe
from ioflt.wire.keyd import providers
from ioflt.wire.keyd.replies import CachedKey, EventLogSettings, Locked, Status
from ioflt.wire.keyd.requests import Criterion, Report
from ioflt.wire.keyd.values import EventSink, LockMode, Revocation

_P = Privilege

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

#: Who makes keys needs one of these on something.
_MAKES_KEYS = (
    _P.ENCRYPT_NEW, _P.ENCRYPT, _P.RECRYPT, _P.CLONE, _P.MIGRATE, _P.REGISTER_HOST, _P.MANAGE_KEYS,
    _P.MANAGE_KEY_SERVERS,
)  # fmt: skip

#: Who changes a key provider, or keeps its key, needs one of these.
_CHANGES_PROVIDERS = (_P.MANAGE_KEY_SERVERS, _P.MANAGE_KEYS)

#: Rounds of PBKDF2 of one request: 2 s. Our own headers ask for 1,000 each.
_MAX_ROUNDS = 1 << 22


class Guarded:
    """As `keys.service.KeyService`; each call may raise DeniedError."""

    def __init__(self, service: Service, rules: Rules, session: Session) -> None:
        self._service = service
        self._rules = rules
        self._holdings = rules.holdings
        self._session = session
        self._who = session.caller.principal
        self._permits = Permits(rules, session)
        self._telling = Telling(service.recorder, rules, session)
        self._records = Records(service, rules, session, self._permits, self._telling)
        self.exporting = Exporting(rules, service.recorder, session, self._permits, self._telling)
        self.vouching = Vouching(service, rules, session, self._permits, self._telling)
        self.watching = Watching(service, rules, session, self._permits, self._telling, self.vouching)

    def tell_denial(self, error: DeniedError) -> None:
        """An event of what was answered with that error."""
        self._telling.denial(error)

    # Records

    def check_record(
        self, payload: bytes, tags: Sequence[bytes], by: Sequence[KeyRef], shown: str = ""
    ) -> list[bool | IofltError]:
        return self._records.check(payload, tags, by, shown)

    def seal_record(
        self, by: Sequence[KeyRef], old: bytes | None, payload: bytes, shown: str = ""
    ) -> list[bytes]:
        return self._records.seal(by, old, payload, shown)

    # Data keys

    def generate(self, key: KeyRef, aads: Sequence[bytes]) -> list[tuple[Secret, bytes]]:
        self._permits.make(key)
        made = self._service.generate(key, aads)
        self._holdings.made_blobs(self._who, (sha256(blob) for _, blob in made))
        return made

    def unwrap(self, items: Sequence[tuple[KeyRef, bytes, bytes]]) -> list[Secret | IofltError]:
        return self._each(items, lambda item: self._permits.open(item[0], item[1]), self._service.unwrap)

    def rewrap(self, key_from: KeyRef, key_to: KeyRef, blob: bytes, aad_from: bytes, aad_to: bytes) -> bytes:
        self._permits.rewrap(key_from, key_to, blob)
        made = self._service.rewrap(key_from, key_to, blob, aad_from, aad_to)
        self._pass_on(blob, made)
        return made

    def prove(self, items: Sequence[tuple[KeyRef, bytes, bytes, Digest]]) -> list[IofltError | None]:
        if sum(digest.rounds for *_, digest in items) > _MAX_ROUNDS:
            raise UsageError("more rounds of PBKDF2 than keyd does at once")
        return self._each(items, lambda item: self._permits.prove(item[0], item[1]), self._service.prove)

    def _each(
        self,
        items: Sequence[_Item],
        check: Callable[[_Item], None],
        ask: Callable[[list[_Item]], list[_Answer]],
    ) -> list[_Answer | IofltError]:
        """What is answered to the items that pass, and to each other one its DeniedError."""
        denied: dict[int, IofltError] = {}
        for index, item in enumerate(items):
            try:
                check(item)
            except DeniedError as error:
                self._telling.denial(error)
                denied[index] = error
        answers = iter(ask([item for index, item in enumerate(items) if index not in denied]))
        return [denied[index] if index in denied else next(answers) for index in range(len(items))]

    def prove_vmx(self, text: bytes, by: Sequence[KeyRef]) -> None:
        info = sealed.peek(text)
        for key in by or info.keys:
            self._permits.prove(key, info.safe.encode())
        self._service.prove_vmx(text, by)

    def seal_vmx(self, key: KeyRef, plaintext: bytes, file_id: int) -> bytes:
        self._permits.make(key)
        made = self._service.seal_vmx(key, plaintext, file_id)
        self._holdings.made_blobs(self._who, [sha256(sealed.peek(made).safe.encode())])
        return made

    def rewrap_vmx(self, text: bytes, keys: Sequence[KeyRef]) -> bytes:
        info = sealed.peek(text)
        safe = info.safe.encode()
        added = [key for key in keys if key not in info.keys]
        sources = list(
            self._permits.allowed(info.keys, lambda key: self._permits.rewrap_to_all(key, added, safe))
        )
        made = self._service.rewrap_vmx(text, keys, sources)
        self._pass_on(safe, sealed.peek(made).safe.encode())
        return made

    def config_key(self, head: bytes, key: KeyRef | None = None) -> Secret:
        info = sealed.peek(head)
        safe = info.safe.encode()
        if key is not None:
            self._permits.open(key, safe)
            return self._service.config_key(head, key)
        return self._service.config_key(
            head, None, list(self._permits.allowed(info.keys, lambda one: self._permits.open(one, safe)))
        )

    def _pass_on(self, before: bytes, after: bytes) -> None:
        """What he made is his under the other key, too."""
        if self._holdings.knows_blob(self._who, sha256(before)):
            self._holdings.made_blobs(self._who, [sha256(after)])

    # Keys and providers

    def default_provider(self) -> str:
        return self._service.default_provider()

    def new_key(self, provider: str | None = None, *, within: str | None = None) -> KeyRef:
        self._permits.require_anywhere(_MAKES_KEYS)
        if within is not None:
            folder = self._rules.authority.state.folder_of(objects.datastore(within, within))
            provider = (folder and folder.provider) or provider
        key = self._service.new_key(provider)
        self._holdings.made_key(self._who, key)
        return key

    def use_key(self, key: KeyRef) -> None:
        if not self._permits.owns(key, _P.READ):
            self._permits.require(_P.MANAGE_KEYS, ANYWHERE)
        self._service.use_key(key)

    def key_states(self, keys: Sequence[KeyRef], *, ask: bool = True) -> list[KeyState]:
        if ask:
            self._permits.require_seen(keys)
        return self._service.key_states(keys, ask=ask)

    def cached_keys(self, after: KeyRef | None = None) -> list[CachedKey]:
        self._permits.require(_P.READ_KEY_SERVERS, ANYWHERE)
        return self._service.cached_keys(after)

    def set_key_cache(self, provider: str, days: int | None) -> None:
        self._permits.require(_P.MANAGE_KEY_SERVERS, ANYWHERE)
        self._service.set_key_cache(provider, days)

    def forget_key(self, key: KeyRef) -> None:
        self._permits.require(_P.MANAGE_KEYS, ANYWHERE)
        self._service.forget_key(key)

    def remove_key(self, key: KeyRef) -> None:
        self._permits.require(_P.MANAGE_KEYS, ANYWHERE)
        self._service.remove_key(key)

    def add_key(self, key: KeyRef) -> None:
        self._permits.require(_P.MANAGE_KEYS, ANYWHERE)
        self._service.add_key(key)

    def locate_keys(self, provider: str, criteria: Sequence[Criterion]) -> list[str]:
        self._permits.require(_P.READ_KEY_SERVERS, ANYWHERE)
        return self._service.server_keys.locate(provider, criteria)

    def revoke_key(self, key: KeyRef, reason: Revocation) -> None:
        self._permits.require(_P.MANAGE_KEYS, ANYWHERE)
        self._service.server_keys.revoke(key, reason, self._telling.for_whom)

    def destroy_key(self, key: KeyRef) -> None:
        self._permits.require(_P.MANAGE_KEYS, ANYWHERE)
        self._service.server_keys.destroy(key, self._telling.for_whom)

    def erase_key(self, key: KeyRef, home_id: str) -> bool:
        self._permits.require(_P.MANAGE_KEYS, ANYWHERE)
        # Root's command has looked into all datastores that were opened here; others have no notes of these.
        others = [] if self._session.caller.trusted else self._holdings.others(key, home_id)
        if others:
            many = f" and {len(others) - 1} more" if len(others) > 1 else ""
            raise BusyError(f"its key {key} also opens {others[0]}{many}, as keyd knows")
        return self._service.server_keys.erase(key, self._telling.for_whom)

    def note_generation(self, keys: Sequence[KeyRef], home_id: str, generation: int) -> None:
        newest = min(
            self._holdings.newest([key], home_id) for key in keys
        )  # by each, or others' keys tell it
        if not self._session.caller.trusted and (generation > newest or not self._permits.sees(keys)):
            raise UnshownError(f"nobody has shown a record of generation {generation} of the home {home_id}")
        self._service.note_generation(keys, home_id, generation)

    def seen_generation(self, keys: Sequence[KeyRef], home_id: str) -> tuple[int, bool]:
        if not self._permits.sees(keys):
            return 0, False
        return self._service.seen_generation(keys, home_id)

    def policies(self) -> bytes:
        # Every operation goes by them, so they are no secret: commands that show them say that they do.
        operation = OPERATIONS.get(self._session.operation)
        if operation is not None and any(need.privilege is _P.VIEW_POLICY for need in operation.needs):
            self._permits.require(_P.VIEW_POLICY, ANYWHERE)
        return self._service.policies()

    def add_policy(self, text: bytes) -> None:
        self._require_policies(policy_text.parse(text))
        self._service.add_policy(text)

    def remove_policy(self, name: str) -> None:
        own = policy_text.parse(self._service.policies())
        self._require_policies([policy for policy in own if policy.name == name])
        self._service.remove_policy(name)

    def _require_policies(self, changed: Iterable[StoragePolicy]) -> None:
        self._permits.require(_P.UPDATE_POLICY, ANYWHERE)
        if any(policy.encrypts for policy in changed):
            self._permits.require(_P.MANAGE_ENCRYPTION_POLICY, ANYWHERE)

    def _require_sight_of_providers(self) -> None:
        """Of who sees them, or changes them by what he sees. Raises DeniedError for what the command asks."""
        if any(self._permits.has(each, ANYWHERE) for each in (_P.READ_KEY_SERVERS, *_CHANGES_PROVIDERS)):
            return
        operation = OPERATIONS.get(self._session.operation)
        asked = [need.privilege for need in operation.needs] if operation else []
        lacking = next((each for each in asked if each in _CHANGES_PROVIDERS), _P.READ_KEY_SERVERS)
        self._permits.require(lacking, ANYWHERE)

    def about_provider(self, name: str) -> providers.About:
        self._require_sight_of_providers()
        return self._service.providers.about(name)

    def provider_default(self) -> tuple[str | IofltError, str | None]:
        self._require_sight_of_providers()
        return self._service.providers.default()

    def provider_use(self, name: str) -> tuple[list[str], list[str]]:
        """Who is known to have keys of it, and where the datastores were that root's commands opened."""
        self._permits.require(_P.MANAGE_KEY_SERVERS, ANYWHERE)
        return self._holdings.users(name), seen.places()

    def look_at_servers(self, name: str) -> Mapping[KmipServer, bytes]:
        self._permits.require(_P.MANAGE_KEY_SERVERS, ANYWHERE)
        return self._service.providers.look(name)

    def try_provider(self, name: str) -> list[Step]:
        self._permits.require(_P.MANAGE_KEY_SERVERS, ANYWHERE)
        return self._service.providers.try_out(name, self._telling.for_whom)

    def back_up_provider(self, asked: providers.BackUp) -> bytes:
        try:
            self._permits.require(_P.MANAGE_KEYS, ANYWHERE)
            return self._service.providers.backup(asked, self._telling.for_whom)
        finally:
            for secret in providers.secrets(asked):
                wipe(secret)

    def change_provider(self, change: providers.Change) -> str:
        try:
            self._permits.require(provider_privilege(change), ANYWHERE)
            users = self._holdings.users(change.name)
            return self._service.providers.change(change, users, self._telling.for_whom)
        finally:
            for secret in providers.secrets(change):
                wipe(secret)

    # keyd

    def status(self) -> Status:
        """What everybody may see; all of it is for who sees keys or opens providers."""
        found = self._service.status()
        if self._permits.has(_P.READ_KEY_SERVERS, ANYWHERE) or self._permits.has(_P.MANAGE_KEYS, ANYWHERE):
            return found
        providers = tuple(
            msgspec.structs.replace(one, slots=(), reason="", cache=None) for one in found.providers
        )
        return msgspec.structs.replace(found, cached_keys=None, connections=None, providers=providers)

    def warnings(self) -> list[str]:
        backs_up = self._permits.has(_P.MANAGE_KEYS, ANYWHERE)
        return self._service.warnings() if backs_up else self._service.common_warnings()

    def set_event_log(self, required: bool | None, sink: EventSink | None) -> EventLogSettings:
        self._permits.require(_P.MODIFY_ROLES, ANYWHERE)
        settings = self._service.recorder.change(required=required, sink=sink)
        return EventLogSettings(settings.required, settings.sink)

    def event_page(self, file: int, offset: int, *, wait: bool, folder: str | None = None) -> Page:
        about = ANYWHERE if folder is None else place_of(objects.folder(folder))
        self._permits.require(_P.DIAGNOSTICS, about)
        return self._service.recorder.page(file, offset, wait=wait, folder=folder)

    def attest(self, report: bytes) -> tuple[bytes, bytes]:
        """keyd's statement about the report of that SHA-256, and its signature; an event tells of it."""
        self._permits.require(_P.DIAGNOSTICS, ANYWHERE)
        digest = report.hex()
        about = [added("attest.report", digest)]
        told = self._telling.event("attest", ANYWHERE, changes=about, privilege=_P.DIAGNOSTICS)
        self._service.recorder.record(told)
        made = Statement(digest, told.by, told.time, str(self._service.recorder.head))
        return self._service.attester.sign(made)

    def manifest_key(self) -> str:
        """The public key that verifies these signatures, in PEM."""
        return self._service.attester.public_key()

    def attest_key(self) -> str:
        """The public key that verifies these signatures, in PEM."""
        self._permits.require(_P.DIAGNOSTICS, ANYWHERE)
        return self._service.attester.public_key()

    def note_events(self, batch: Sequence[Report]) -> EventLogSettings:
        """Log what the peer reports. Raises UsageError, BusyError; StorageError when events are required."""
        told = [self._telling.for_whom(reports.event_of(report, self._session.operation)) for report in batch]
        of_mounts, uid = self._session.operation == "mount", told[0].by.uid
        owns = uid in (0, os.geteuid())  # whose mounts are all that there are
        allowance = self._rules.reports if owns else self._rules.told
        if not allowance.take(uid, len(told)):
            raise BusyError(f"uid {uid} reports more events than keyd takes")
        recorder = self._service.recorder
        # A command tells of what it is about to do, a mount of what comes often.
        for each in told[:-1]:
            recorder.record_soon(each)
        (recorder.record_soon if of_mounts else recorder.record)(told[-1])  # on disk, and so all before
        settings = recorder.settings
        return EventLogSettings(settings.required, settings.sink)

    def key_holders(self) -> list[str]:
        return self._service.key_holders()

    def mark_key_holder(self, home_id: str, *, holds: bool) -> None:
        self._permits.require(_P.MANAGE_KEYS, ANYWHERE)
        about = self._session.about
        self._service.mark_key_holder(home_id, holds=holds, shown=about.shown if about.vm == home_id else "")

    def lock(self, mode: LockMode) -> Locked:
        self._permits.require(_P.MANAGE_KEYS, ANYWHERE)
        self._rules.exports.end_all(ProviderLocked("the key cache is locked"))  # their mounts have files open
        return self._service.lock(mode)

    def unlock(self, provider: str | None = None, passphrase: Secret | None = None) -> None:
        self._permits.require(_P.MANAGE_KEYS, ANYWHERE)
        self._service.unlock(provider, passphrase)

    def reload(self) -> None:
        self._permits.require(_P.MANAGE_KEY_SERVERS, ANYWHERE)
        self._service.reload()

    def stop(self) -> None:
        """Whether he may end keyd. Raises DeniedError."""
        self._permits.require(_P.MANAGE_KEYS, ANYWHERE)
        self._service.recorder.record_if_possible(event("keyd stop"))
