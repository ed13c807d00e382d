"""The `Service` as one connection sees it: each request is allowed first, by who asks and what it is about.

Which home or datastore a key belongs to is what valid records say that were shown (`holdings`). A key of
which no record was shown is used by nobody but who may do the same everywhere and manages keys: so nobody
gets round the permissions on a home by not showing its record.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from ioflt.access import changes, objects, transitions
from ioflt.access.decide import denial
from ioflt.access.differences import differences
from ioflt.access.objects import ANYWHERE, Place
from ioflt.access.operations import OPERATIONS, On
from ioflt.access.privileges import Privilege
from ioflt.access.state import AccessState
from ioflt.access.transitions import Transition
from ioflt.audit.attestation import Statement
from ioflt.audit.event import Change, Event, Outcome, Thing, added, modified
from ioflt.audit.reader import Page
from ioflt.crypto.mac import sha256
from ioflt.crypto.secret import Secret
from ioflt.datastore import seen
from ioflt.datastore.memory import Memory
from ioflt.errors import BusyError, CorruptDataError, DeniedError, IofltError, UnshownError, UsageError
from ioflt.format.luks2.profile import Digest
from ioflt.format.record import record as form
from ioflt.format.record.record import Deep, HomeRecord, Move, Record
from ioflt.format.vmx import sealed
from ioflt.keyd import reports
from ioflt.keyd.allowance import Allowance
from ioflt.keyd.authority import Authority
from ioflt.keyd.denials import Denials
from ioflt.keyd.holdings import Holdings
from ioflt.keyd.providers import privilege as provider_privilege
from ioflt.keyd.recorder import event, used
from ioflt.keyd.service import Service
from ioflt.keyd.session import Session
from ioflt.keyd.shared_keys import Owner
from ioflt.keys.state import KeyState
from ioflt.policy import text as policy_text
from ioflt.policy.model import StoragePolicy
from ioflt.types import KeyRef
from ioflt.wire.frame import wipe
from ioflt.wire.keyd import providers
from ioflt.wire.keyd.messages import (
    CachedKey,
    EventLogSettings,
    EventSink,
    Locked,
    LockMode,
    Report,
    Status,
)

_P = Privilege

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

#: Who makes keys needs one of these on something.
_MAKES_KEYS = (
    _P.ENCRYPT_NEW, _P.ENCRYPT, _P.RECRYPT, _P.CLONE, _P.MIGRATE, _P.REGISTER_HOST, _P.MANAGE_KEYS,
    _P.MANAGE_KEY_SERVERS,
)  # fmt: skip

#: By what a home may get a key that another one has: what hands out data keys under it anyway.
_SHARES = {"vm clone": _P.CLONE, "vm move": _P.MIGRATE}

#: Operations that make a record for what is there already.
_REGISTERING = frozenset({"vm register", "vm register: --clear", "header restore"})

#: Rounds of PBKDF2 of one request: 2 s. Our own headers ask for 1,000 each.
_MAX_ROUNDS = 1 << 22

#: Most that a generation may grow by at once: so that nobody takes all that there are.
_LEAP = 1 << 20


_log = logging.getLogger(__name__)


class Denied(DeniedError):
    """Which privilege is lacking, and where."""

    def __init__(self, privilege: Privilege, place: Place) -> None:
        super().__init__(denial(privilege, place).message)
        self.privilege = privilege
        self.place = place


@dataclass(frozen=True, slots=True)
class Rules:
    """What all connections have in common. `memory`: what this host has seen of homes."""

    authority: Authority
    holdings: Holdings
    memory: Memory
    denials: Denials
    binding: threading.Lock = field(default_factory=threading.Lock)
    reports: Allowance = field(default_factory=lambda: Allowance(reports.BURST, reports.RATE))


class Guarded:
    """As `keys.client.KeyService`; each call may raise DeniedError."""

    def __init__(self, service: Service, rules: Rules, session: Session) -> None:
        self._service = service
        self._rules = rules
        self._holdings = rules.holdings
        self._session = session
        self._who = session.caller.principal

    # Records

    def check_record(
        self, payload: bytes, tags: Sequence[bytes], by: Sequence[KeyRef], shown: str = ""
    ) -> list[bool | IofltError]:
        results = self._service.check_record(payload, tags, by)
        if True in results and False not in results:
            record = form.parse_payload(payload)
            self._learn(record, shown)
            self._session.about = transitions.place_of(record, shown)
        return results

    def _learn(self, record: Record, shown: str) -> None:
        """Raises StorageError; UsageError for what keyd cannot keep, but to root, who gives it other keys."""
        try:
            self._holdings.learn(record, shown, vouched=self._session.caller.trusted)
        except UsageError as error:
            if not self._session.caller.trusted:
                raise
            _log.warning("whose the keys of %s are is not kept: %s", shown, error)

    def seal_record(
        self, by: Sequence[KeyRef], old: bytes | None, payload: bytes, shown: str = ""
    ) -> list[bytes]:
        record = form.parse_payload(payload)
        shown = shown or Owner.of(record).ident
        if not record.keys:
            self._check_datastore(by, record.datastore_id)
        before = self._valid(old)
        change = self._transition(before, record, shown)
        introduced = transitions.keys_of(record) - (
            frozenset() if before is None else transitions.keys_of(before)
        )
        # Here a provider may be waited for, and all of this is begun again: nothing was changed before.
        tags = self._service.macs(by, record, payload)
        for privilege, place in change.asks:
            self._require(privilege, place)
        with self._rules.binding:  # a new key gets one owner, an id one home
            self._check_id(before, record)
            for key in introduced:
                self._bind(key, transitions.place_of(record, shown))
            self._holdings.learn(record, shown, vouched=self._session.caller.trusted)
            if before is None and isinstance(record, HomeRecord):
                self._holdings.made_home(self._who, record.home_id)
        self._inherit(before, record)
        with self._telling(change, record, shown):
            self._service.sealed(before, record)
        return tags

    def _check_id(self, before: Record | None, record: Record) -> None:
        """Permissions are given on ids: no VM and no datastore takes that of another. Raises UsageError."""
        ident = Owner.of(record).ident
        if self._session.caller.trusted:
            return
        if type(before) is type(record) and before is not None and Owner.of(before).ident == ident:
            return
        if isinstance(record, HomeRecord):
            what, target, home = "VM", objects.vm(ident, ident), self._holdings.home(ident)
            known, same = home is not None, home == (transitions.keys_of(record), record.datastore_id)
        else:
            what, target, (keys, _) = (
                "datastore",
                objects.datastore(ident, ident),
                self._holdings.datastore(ident),
            )
            known, same = bool(keys), keys == transitions.keys_of(record)
        if same:
            return  # the answer was lost, and it is asked again
        if known or self._rules.authority.state.names(target) or self._rules.memory.look(ident).generation:
            raise UsageError(f"the id {ident} is another {what}'s")

    def _inherit(self, before: Record | None, record: Record) -> None:
        """A VM that gets another id keeps its permissions; so does the old id, which a copy may have."""
        if not isinstance(before, HomeRecord) or not isinstance(record, HomeRecord):
            return
        old, new = before.home_id, record.home_id
        if isinstance(record.operation, Deep) and record.operation.id == new:
            return  # a raw copy becomes a VM of its own
        if isinstance(record.operation, Move) and self._holdings.has_made_home(
            self._who, record.operation.home_id
        ):
            new = record.operation.home_id
        if old != new:
            self._change_access(lambda state: changes.inherit(state, old, new))

    def _change_access(self, make: Callable[[AccessState], AccessState]) -> None:
        done: list[Event] = []

        def changed(state: AccessState) -> AccessState:
            after = make(state)
            given = [modified(*difference) for difference in differences(state, after)]
            if given:
                told = self._event("permission grant", self._session.about, changes=given, privilege=None)
                self._service.recorder.record(told)
                done.append(told)
            return after

        try:
            self._rules.authority.change(changed)
        except IofltError as error:
            for told in done:
                self._service.recorder.failed(told, error)
            raise

    def _check_datastore(self, by: Sequence[KeyRef], datastore_id: str) -> None:
        """A clear home's record is under its datastore's keys. Raises UnshownError, UsageError."""
        if not set(by) <= self._datastore_keys(datastore_id):
            raise UsageError("a clear VM's record is under the keys of its datastore")

    def _datastore_keys(self, datastore_id: str) -> frozenset[KeyRef]:
        keys, _ = self._holdings.datastore(datastore_id)
        if not keys:
            raise UnshownError(f"nobody has shown the record of the datastore {datastore_id}")
        return keys

    def _valid(self, old: bytes | None) -> Record | None:
        """The record that is replaced; one that is not valid counts as none."""
        if old is None:
            return None
        try:
            found = form.parse(old)
        except CorruptDataError:
            return None
        record = found.record
        by = record.keys or tuple(self._datastore_keys(record.datastore_id))
        results = self._service.check_record(found.payload, found.tags, by)
        if True not in results or (record.keys and False in results):
            return None
        return record

    def _transition(self, before: Record | None, record: Record, shown: str) -> Transition:
        ident = Owner.of(before or record).ident
        newest = max(self._holdings.generation(before or record), self._rules.memory.look(ident).generation)
        least, most = (1, newest) if before is None else (before.generation, max(before.generation, newest))
        if not least <= record.generation <= most + _LEAP:
            raise UsageError(f"generation {record.generation} does not follow on {most}")
        if before is None:
            registering = self._session.operation in _REGISTERING
            _, default = self._holdings.datastore(record.datastore_id)
            return transitions.first(record, shown, default, registering=registering)
        return transitions.between(before, record, shown, rolled_back=before.generation < newest)

    def _bind(self, key: KeyRef, place: Place) -> None:
        """The record of that place names a key that it did not name before. Raises DeniedError."""
        owners = self._holdings.owners(key) - {Owner(place.vm, place.datastore or "")}
        if not owners and self._holdings.has_made(self._who, key):
            return  # also asked again, as the answer was lost
        shares = _SHARES.get(self._session.operation, _P.ACCESS)
        for owner in owners:  # nobody chooses the key of a VM that he may not read, whatever he manages
            self._require(shares, self._holdings.place(owner))
        if not owners:  # it may be anybody's
            self._require(_P.MANAGE_KEYS, ANYWHERE)
            self._require(_P.ACCESS, ANYWHERE)

    # Data keys

    def generate(self, key: KeyRef, aads: Sequence[bytes]) -> list[tuple[Secret, bytes]]:
        self._make(key)
        made = self._service.generate(key, aads)
        self._holdings.made_blobs(self._who, (sha256(blob) for _, blob in made))
        return made

    def unwrap(self, items: Sequence[tuple[KeyRef, bytes, bytes]]) -> list[Secret | IofltError]:
        return self._each(items, lambda item: self._open(item[0], item[1]), self._service.unwrap)

    def rewrap(self, key_from: KeyRef, key_to: KeyRef, blob: bytes, aad_from: bytes, aad_to: bytes) -> bytes:
        self._rewrap(key_from, key_to, blob)
        made = self._service.rewrap(key_from, key_to, blob, aad_from, aad_to)
        self._pass_on(blob, made)
        return made

    def prove(self, items: Sequence[tuple[KeyRef, bytes, bytes, Digest]]) -> list[IofltError | None]:
        if sum(digest.rounds for *_, digest in items) > _MAX_ROUNDS:
            raise UsageError("more rounds of PBKDF2 than keyd does at once")
        return self._each(items, lambda item: self._prove(item[0], item[1]), self._service.prove)

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
                self.tell_denial(error)
                denied[index] = error
        answers = iter(ask([item for index, item in enumerate(items) if index not in denied]))
        return [denied[index] if index in denied else next(answers) for index in range(len(items))]

    def prove_vmx(self, text: bytes, by: Sequence[KeyRef]) -> None:
        info = sealed.peek(text)
        for key in by or info.keys:
            self._prove(key, info.safe.encode())
        self._service.prove_vmx(text, by)

    def seal_vmx(self, key: KeyRef, plaintext: bytes, file_id: int) -> bytes:
        self._make(key)
        made = self._service.seal_vmx(key, plaintext, file_id)
        self._holdings.made_blobs(self._who, [sha256(sealed.peek(made).safe.encode())])
        return made

    def rewrap_vmx(self, text: bytes, keys: Sequence[KeyRef]) -> bytes:
        info = sealed.peek(text)
        safe = info.safe.encode()
        added = [key for key in keys if key not in info.keys]
        sources = list(self._allowed(info.keys, lambda key: self._rewrap_to_all(key, added, safe)))
        made = self._service.rewrap_vmx(text, keys, sources)
        self._pass_on(safe, sealed.peek(made).safe.encode())
        return made

    def config_key(self, head: bytes, key: KeyRef | None = None) -> Secret:
        info = sealed.peek(head)
        safe = info.safe.encode()
        if key is not None:
            self._open(key, safe)
            return self._service.config_key(head, key)
        return self._service.config_key(
            head, None, list(self._allowed(info.keys, lambda one: self._open(one, safe)))
        )

    def _open(self, key: KeyRef, wrapped: bytes) -> None:
        """A data key that is in use goes out. Raises DeniedError."""
        try:
            self._use(key, self._session.uses.opens)
        except DeniedError:  # asked first as it is what mounts do, and quicker
            if not self._holdings.knows_blob(self._who, sha256(wrapped)):
                raise

    def _make(self, key: KeyRef) -> None:
        """A new data key goes out, of whoever has the key: who made that key may. Raises DeniedError."""
        if not self._holdings.has_made(self._who, key):
            self._use(key, self._session.uses.makes)

    def _prove(self, key: KeyRef, wrapped: bytes) -> None:
        if not (
            self._holdings.has_made(self._who, key) or self._holdings.knows_blob(self._who, sha256(wrapped))
        ):
            self._use(key, self._session.uses.rewraps)

    def _rewrap(self, key_from: KeyRef, key_to: KeyRef, wrapped: bytes) -> None:
        """A data key comes under another key. Raises DeniedError.

        Nobody may come to it so who could not before: the other key belongs at least to whoever the first one
        does. Else it is as if the data key went out.
        """
        source, target = self._holdings.owners(key_from), self._holdings.owners(key_to)
        if not source or not source <= target:
            self._open(key_from, wrapped)
            self._make(key_to)
            return
        self._prove(key_from, wrapped)
        self._prove(key_to, wrapped)

    def _rewrap_to_all(self, key_from: KeyRef, to: Sequence[KeyRef], wrapped: bytes) -> None:
        self._prove(key_from, wrapped)
        for key in to:
            self._rewrap(key_from, key, wrapped)

    def _pass_on(self, before: bytes, after: bytes) -> None:
        """What he made is his under the other key, too."""
        if self._holdings.knows_blob(self._who, sha256(before)):
            self._holdings.made_blobs(self._who, [sha256(after)])

    def _allowed(self, keys: Iterable[KeyRef], check: Callable[[KeyRef], None]) -> Iterator[KeyRef]:
        """Those of the keys that pass. Raises the first one's DeniedError when none does."""
        denied: DeniedError | None = None
        found = False
        for key in keys:
            try:
                check(key)
            except DeniedError as error:
                denied = denied or error
                continue
            found = True
            yield key
        if not found and denied is not None:
            raise denied

    def _use(self, key: KeyRef, privileges: tuple[Privilege, ...] | None) -> None:
        """Raises DeniedError unless he has the privileges wherever the key is."""
        owners = self._holdings.owners(key)
        if not owners:
            self._use_unknown(key, privileges)
            return
        for owner in owners:
            if privileges is None and not self._session.caller.trusted:
                raise Denied(_P.ACCESS, self._holdings.place(owner))
            for privilege in privileges or ():
                self._require(privilege, self._holdings.place(owner))

    def _use_unknown(self, key: KeyRef, privileges: tuple[Privilege, ...] | None) -> None:
        if self._session.caller.trusted:
            return
        try:
            if privileges is None:
                raise Denied(_P.ACCESS, ANYWHERE)
            for privilege in (*privileges, _P.MANAGE_KEYS):
                self._require(privilege, ANYWHERE)
        except DeniedError:
            raise UnshownError(f"nobody has shown a record of the key {key}") from None

    def _require(self, privilege: Privilege, place: Place) -> None:
        try:
            self._session.require(self._rules.authority, privilege, place)
        except DeniedError:
            raise Denied(privilege, place) from None
        used(privilege)

    # Events

    @contextmanager
    def _telling(self, change: Transition, record: Record, shown: str) -> Iterator[None]:
        """An event is on disk before the block is run; of progress there is none. Raises StorageError."""
        if not change.changes:
            yield
            return
        asked = ", ".join(dict.fromkeys(str(privilege) for privilege, _ in change.asks))
        told = [modified(*each) for each in change.changes]
        place = transitions.place_of(record, shown)
        with self._service.recorder.around(
            self._event(change.operation, place, changes=told, privilege=asked or None)
        ):
            yield

    def tell_denial(self, error: DeniedError) -> None:
        """An event, unless there were more of late than are told."""
        if isinstance(error, Denied):
            about = self._session.operation or "keys"
            told = self._event(about, error.place, privilege=error.privilege, outcome="denied")
            self._rules.denials.tell(told, (self._who, error.privilege, error.place))

    def _event(
        self,
        operation: str,
        place: Place,
        *,
        privilege: str | None,
        changes: Sequence[Change] = (),
        outcome: Outcome = "done",
    ) -> Event:
        datastore = None
        if place.vm is not None and place.datastore is not None:
            around = self._holdings.place(Owner(None, place.datastore))
            datastore = Thing("datastore", place.datastore, around.shown)
        about = None
        if place.vm is not None:
            about = Thing("vm", place.vm, place.shown)
        elif place.datastore is not None:
            about = Thing("datastore", place.datastore, place.shown)
        made = event(
            operation, about, changes=changes, outcome=outcome, privilege=privilege, datastore=datastore
        )
        return self._for_whom(made)

    def _for_whom(self, made: Event) -> Event:
        if not self._session.for_other:
            return made
        by = msgspec.structs.replace(made.by, as_principal=str(self._who))
        return msgspec.structs.replace(made, by=by)

    # Keys and providers

    def default_provider(self) -> str:
        return self._service.default_provider()

    def new_key(self, provider: str | None = None, *, within: str | None = None) -> KeyRef:
        self._require_anywhere(_MAKES_KEYS)
        if within is not None:
            folder = self._rules.authority.state.folder_of(objects.datastore(within, within))
            provider = (folder and folder.provider) or provider
        key = self._service.new_key(provider)
        self._holdings.made_key(self._who, key)
        return key

    def _require_anywhere(self, privileges: Sequence[Privilege]) -> None:
        """One of them, on whatever it is. Raises DeniedError, which names the one of the operation."""
        caller, state = self._session.caller, self._rules.authority.state
        if caller.trusted:
            return
        given = [each.role for each in state.permissions if each.principal in caller.all]
        if any(state.role(role).privileges.intersection(privileges) for role in given):
            return
        operation = OPERATIONS.get(self._session.operation)
        for need in operation.needs if operation else ():
            if need.privilege in privileges:
                raise Denied(need.privilege, ANYWHERE if need.on is On.EVERYTHING else self._session.about)
        own = [each for each in self._session.uses.makes or () if each in privileges]
        raise Denied(own[0] if own else privileges[0], self._session.about)

    def use_key(self, key: KeyRef) -> None:
        if not self._owns(key, _P.READ):
            self._require(_P.MANAGE_KEYS, ANYWHERE)
        self._service.use_key(key)

    def key_states(self, keys: Sequence[KeyRef], *, ask: bool = True) -> list[KeyState]:
        if ask and not self._sees(keys):
            self._require(_P.READ_KEY_SERVERS, ANYWHERE)
        return self._service.key_states(keys, ask=ask)

    def _owns(self, key: KeyRef, privilege: Privilege) -> bool:
        """Whether it is a key that he made, or of something that he has the privilege on."""
        try:
            for owner in self._holdings.owners(key):
                self._require(privilege, self._holdings.place(owner))
        except DeniedError:
            return False
        return bool(self._holdings.owners(key)) or self._holdings.has_made(self._who, key)

    def cached_keys(self, after: KeyRef | None = None) -> list[CachedKey]:
        self._require(_P.READ_KEY_SERVERS, ANYWHERE)
        return self._service.cached_keys(after)

    def set_key_cache(self, provider: str, days: int | None) -> None:
        self._require(_P.MANAGE_KEY_SERVERS, ANYWHERE)
        self._service.set_key_cache(provider, days)

    def forget_key(self, key: KeyRef) -> None:
        self._require(_P.MANAGE_KEYS, ANYWHERE)
        self._service.forget_key(key)

    def remove_key(self, key: KeyRef) -> None:
        self._require(_P.MANAGE_KEYS, ANYWHERE)
        self._service.remove_key(key)

    def add_key(self, key: KeyRef) -> None:
        self._require(_P.MANAGE_KEYS, ANYWHERE)
        self._service.add_key(key)

    def note_generation(self, keys: Sequence[KeyRef], home_id: str, generation: int) -> None:
        newest = min(
            self._holdings.newest([key], home_id) for key in keys
        )  # by each, or others' keys tell it
        if not self._session.caller.trusted and (generation > newest or not self._sees(keys)):
            raise UnshownError(f"nobody has shown a record of generation {generation} of the home {home_id}")
        self._service.note_generation(keys, home_id, generation)

    def seen_generation(self, keys: Sequence[KeyRef], home_id: str) -> tuple[int, bool]:
        if not self._sees(keys):
            return 0, False
        return self._service.seen_generation(keys, home_id)

    def _sees(self, keys: Sequence[KeyRef]) -> bool:
        return self._session.caller.trusted or all(self._owns(key, _P.READ) for key in keys)

    def policies(self) -> bytes:
        return self._service.policies()

    def add_policy(self, text: bytes) -> None:
        self._require_policies(policy_text.parse(text))
        self._service.add_policy(text)

    def remove_policy(self, name: str) -> None:
        own = policy_text.parse(self._service.policies())
        self._require_policies([policy for policy in own if policy.name == name])
        self._service.remove_policy(name)

    def _require_policies(self, changed: Iterable[StoragePolicy]) -> None:
        self._require(_P.UPDATE_POLICY, ANYWHERE)
        if any(policy.encrypts for policy in changed):
            self._require(_P.MANAGE_ENCRYPTION_POLICY, ANYWHERE)

    def about_provider(self, name: str) -> providers.About:
        self._require(_P.READ_KEY_SERVERS, ANYWHERE)
        return self._service.providers.about(name)

    def provider_default(self) -> tuple[str | IofltError, str | None]:
        self._require(_P.READ_KEY_SERVERS, ANYWHERE)
        return self._service.providers.default()

    def provider_use(self, name: str) -> tuple[list[str], list[str]]:
        """Who is known to have keys of it, and where the datastores were that root's commands opened."""
        self._require(_P.MANAGE_KEY_SERVERS, ANYWHERE)
        return self._holdings.users(name), seen.places()

    def change_provider(self, change: providers.Change) -> str:
        try:
            self._require(provider_privilege(change), ANYWHERE)
            users = self._holdings.users(change.name)
            return self._service.providers.change(change, users, self._for_whom)
        finally:
            for secret in providers.secrets(change):
                wipe(secret)

    # keyd

    def status(self) -> Status:
        """What everybody may see; all of it is for who sees keys or opens providers."""
        found = self._service.status()
        if self._has(_P.READ_KEY_SERVERS, ANYWHERE) or self._has(_P.MANAGE_KEYS, ANYWHERE):
            return found
        providers = tuple(
            msgspec.structs.replace(one, slots=(), reason="", cache=None) for one in found.providers
        )
        return msgspec.structs.replace(found, cached_keys=None, connections=None, providers=providers)

    def _has(self, privilege: Privilege, place: Place) -> bool:
        try:
            self._require(privilege, place)
        except DeniedError:
            return False
        return True

    def warnings(self) -> list[str]:
        return self._service.warnings()

    def set_event_log(self, required: bool | None, sink: EventSink | None) -> EventLogSettings:
        self._require(_P.MODIFY_ROLES, ANYWHERE)
        settings = self._service.recorder.change(required=required, sink=sink)
        return EventLogSettings(settings.required, settings.sink)

    def event_page(self, file: int, offset: int) -> Page:
        self._require(_P.DIAGNOSTICS, ANYWHERE)
        return self._service.recorder.page(file, offset)

    def attest(self, report: bytes) -> tuple[bytes, bytes]:
        """keyd's statement about the report of that SHA-256, and its signature; an event tells of it."""
        self._require(_P.DIAGNOSTICS, ANYWHERE)
        digest = report.hex()
        about = [added("attest.report", digest)]
        told = self._event("attest", ANYWHERE, changes=about, privilege=_P.DIAGNOSTICS)
        self._service.recorder.record(told)
        made = Statement(digest, told.by, told.time, str(self._service.recorder.head))
        return self._service.attester.sign(made)

    def attest_key(self) -> str:
        """The public key that verifies these signatures, in PEM."""
        self._require(_P.DIAGNOSTICS, ANYWHERE)
        return self._service.attester.public_key()

    def note_events(self, batch: Sequence[Report]) -> EventLogSettings:
        """Log what the peer reports. Raises UsageError, BusyError; StorageError when events are required."""
        told = [self._for_whom(reports.event_of(report, self._session.operation)) for report in batch]
        if not self._rules.reports.take(told[0].by.uid, len(told)):
            raise BusyError(f"uid {told[0].by.uid} reports more events than keyd takes")
        recorder = self._service.recorder
        # A command tells of what it is about to do, a mount of what comes often.
        write = recorder.record_soon if self._session.operation == "mount" else recorder.record
        for each in told:
            write(each)
        settings = recorder.settings
        return EventLogSettings(settings.required, settings.sink)

    def key_holders(self) -> list[str]:
        return self._service.key_holders()

    def mark_key_holder(self, home_id: str, *, holds: bool) -> None:
        self._require(_P.MANAGE_KEYS, ANYWHERE)
        about = self._session.about
        self._service.mark_key_holder(home_id, holds=holds, shown=about.shown if about.vm == home_id else "")

    def lock(self, mode: LockMode) -> Locked:
        self._require(_P.MANAGE_KEYS, ANYWHERE)
        return self._service.lock(mode)

    def unlock(self, provider: str | None = None, passphrase: Secret | None = None) -> None:
        self._require(_P.MANAGE_KEYS, ANYWHERE)
        self._service.unlock(provider, passphrase)

    def reload(self) -> None:
        self._require(_P.MANAGE_KEY_SERVERS, ANYWHERE)
        self._service.reload()

    def stop(self) -> None:
        """Whether he may end keyd. Raises DeniedError."""
        self._require(_P.MANAGE_KEYS, ANYWHERE)
        self._service.recorder.record_if_possible(event("keyd stop"))
