"""Records as one connection has them verified and sealed: what a change needs, and what follows from it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

from ioflt.access import changes, objects, transitions
from ioflt.access.differences import differences
from ioflt.access.objects import Place
from ioflt.access.principals import Principal
from ioflt.access.privileges import Privilege
from ioflt.access.state import AccessState
from ioflt.access.transitions import Transition
from ioflt.audit.event import Event, modified
from ioflt.errors import CorruptDataError, IofltError, UnshownError, UsageError
from ioflt.format.record import record as form
from ioflt.format.record.record import Deep, HomeRecord, Move, Record
from ioflt.keyd.holdings import Home
from ioflt.keyd.permits import Permits, Rules
from ioflt.keyd.service import Service
from ioflt.keyd.session import Session
from ioflt.keyd.shared_keys import Owner
from ioflt.keyd.telling import Telling
from ioflt.types import KeyRef

#: Operations that make a record for what is there already.
_REGISTERING = frozenset({"vm register", "vm register: --clear", "header restore"})

#: Most that a generation may grow by at once: so that nobody takes all that there are.
_LEAP = 1 << 20

_log = logging.getLogger(__name__)


class Records:
    """Of one session. What it learns of keys by them is for all."""

    def __init__(
        self, service: Service, rules: Rules, session: Session, permits: Permits, telling: Telling
    ) -> None:
        self._service = service
        self._rules = rules
        self._holdings = rules.holdings
        self._session = session
        self._who = session.caller.principal
        self._permits = permits
        self._telling = telling

    def check(
        self, payload: bytes, tags: Sequence[bytes], by: Sequence[KeyRef], shown: str = ""
    ) -> list[bool | IofltError]:
        """As `keys.service.KeyService.check_record`: one that is valid tells whose its keys are."""
        results = self._service.check_record(payload, tags, by)
        if True in results and False not in results:
            record = form.parse_payload(payload)
            self._learn(record, _good(by, results), shown)
            self._session.about = transitions.place_of(record, shown)
        return results

    def seal(self, by: Sequence[KeyRef], old: bytes | None, payload: bytes, shown: str = "") -> list[bytes]:
        """As `keys.service.KeyService.seal_record`, for who may make that change."""
        record = form.parse_payload(payload)
        shown = shown or Owner.of(record).ident
        if not record.keys:
            self._check_datastore(by, record.datastore_id)
        before, good = self._valid(old)
        change = self._transition(before, record, shown)
        named = frozenset() if before is None else transitions.keys_of(before)
        maced = frozenset() if before is None else good.intersection(before.keys)
        # What the old one only named it may go on to name, but not to be MACed by.
        introduced = transitions.keys_of(record) - maced - (named - set(record.keys))
        # Here a provider may be waited for, and all of this is begun again: nothing was changed before.
        tags = self._service.macs(by, record, payload)
        for privilege, place in change.asks:
            self._permits.require(privilege, place)
        with self._rules.binding:  # a new key gets one owner, an id one home
            self._check_id(before, record)
            for key in introduced:
                self._permits.bind(
                    key, transitions.place_of(record, shown), again=_is_of_same(before, record)
                )
            # What is known was named before: by him, who asks again, or in a record that anybody showed.
            names = isinstance(record, HomeRecord) and not self._is_known(record.home_id)
            self._holdings.learn(
                record,
                by,
                shown,
                vouched=self._session.caller.trusted,
                registers=isinstance(record, HomeRecord) and self._registers(record, by),
                after=good,
                who=self._counted(),
            )
            if names and not _is_of_same(before, record):
                self._holdings.named_home(self._who, Owner.of(record).ident, first=before is None)
            if isinstance(record, HomeRecord):
                self._rules.home_ids.add(record.home_id)
        self._inherit(before, record)
        with self._telling.changing(change, record, shown):
            self._service.sealed(before, record)
        return tags

    def _learn(self, record: Record, by: frozenset[KeyRef], shown: str) -> None:
        """Raises StorageError; UsageError for what keyd cannot keep, but to root, who gives it other keys."""
        if isinstance(record, HomeRecord):
            registers = self._registers(record, by)
        else:
            place = transitions.place_of(record, shown or record.datastore_id)
            registers = self._permits.has(Privilege.REGISTER_HOST, place)
        try:
            self._holdings.learn(
                record,
                by,
                shown,
                vouched=self._session.caller.trusted,
                registers=registers,
                who=self._counted(),
            )
        except UsageError as error:
            if not self._session.caller.trusted:
                raise
            _log.warning("whose the keys of %s are is not kept: %s", shown, error)

    def _counted(self) -> Principal | None:
        """Who makes only so many VMs known that share keys: not root, nor whose keyd it is."""
        return None if self._rules.authority.owns(self._session.caller) else self._who

    def _registers(self, record: HomeRecord, by: Collection[KeyRef]) -> bool:
        """Whether he is about to say that the VM of that id has other keys than those that are known: he may
        where it is known to be, not where the record says. Root, too: also root only looks at what is there.
        """
        known = self._holdings.contests(record, by)
        if known is None or self._session.operation not in _REGISTERING:
            return False
        place = Place(record.home_id, known.datastore, record.home_id)
        asks = (Privilege.REGISTER_INVENTORY, Privilege.REGISTER_VM)
        return all(self._permits.has(each, place) for each in asks)

    def _check_id(self, before: Record | None, record: Record) -> None:
        """Permissions are given on ids: no VM and no datastore takes that of another. Raises UsageError."""
        ident = Owner.of(record).ident
        if self._session.caller.trusted:
            return
        if _is_of_same(before, record):
            return
        if isinstance(record, HomeRecord):
            what, target, home = "VM", objects.vm(ident, ident), self._holdings.home(ident)
            known, same = home is not None, _is_home(home, record)
            # Who gives a VM another id has permissions pass to that: not by what he says it is already.
            same = same and (before is None or self._holdings.has_named_home(self._who, ident))
            # A first record may be asked for again, of the next keyd, too: no permission passes by it.
            known = known or (before is not None and ident in self._rules.home_ids)
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

    def _is_known(self, home_id: str) -> bool:
        """Whether a record of that id was shown or sealed, also by the keyd before."""
        return self._holdings.home(home_id) is not None or home_id in self._rules.home_ids

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
                told = self._telling.event(
                    "permission grant", self._session.about, changes=given, privilege=None
                )
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

    def _valid(self, old: bytes | None) -> tuple[Record | None, frozenset[KeyRef]]:
        """The record that is replaced, and the keys that have MACed it; none: it is not valid."""
        if old is None:
            return None, frozenset()
        try:
            found = form.parse(old)
        except CorruptDataError:
            return None, frozenset()
        record = found.record
        by = record.keys or tuple(self._datastore_keys(record.datastore_id))
        results = self._service.check_record(found.payload, found.tags, by)
        if True not in results or (record.keys and False in results):
            return None, frozenset()
        return record, _good(by, results)

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


def _good(by: Sequence[KeyRef], results: Sequence[bool | IofltError]) -> frozenset[KeyRef]:
    """The keys that have MACed it: others may be out of reach, or were not asked for."""
    return frozenset(key for key, result in zip(by, results, strict=True) if result is True)


def _is_home(known: Home | None, record: HomeRecord) -> bool:
    """Whether it is known with those keys, there."""
    made = Home.of(record)
    return known is not None and (known.named, known.datastore) == (made.named, made.datastore)


def _is_of_same(before: Record | None, record: Record) -> bool:
    """Whether it takes the place of a record of the same home or datastore."""
    return (
        type(before) is type(record)
        and before is not None
        and Owner.of(before).ident == Owner.of(record).ident
    )
