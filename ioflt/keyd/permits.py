"""What one connection may have keyd do with which keys, by who asks and whose the keys are.

Which home or datastore a key belongs to is what valid records say that were shown (`holdings`). A key of
which no record was shown is used by nobody but who may do the same everywhere and manages keys: so nobody
gets round the permissions on a home by not showing its record.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ioflt.access.decide import denial
from ioflt.access.objects import ANYWHERE, Place
from ioflt.access.operations import OPERATIONS, On
from ioflt.access.privileges import Privilege
from ioflt.crypto.mac import sha256
from ioflt.datastore.memory import Memory
from ioflt.errors import DeniedError, UnshownError
from ioflt.keyd import reports
from ioflt.keyd.allowance import Allowance
from ioflt.keyd.authority import Authority
from ioflt.keyd.denials import Denials
from ioflt.keyd.exports import Exports
from ioflt.keyd.holdings import Holdings
from ioflt.keyd.home_ids import HomeIds
from ioflt.keyd.recorder import used
from ioflt.keyd.session import Session
from ioflt.keyd.shared_keys import Owner
from ioflt.types import KeyRef

_P = Privilege

#: By what a home may get a key that another one has: what hands out data keys under it anyway.
_SHARES = {"vm clone": _P.CLONE, "vm move": _P.MIGRATE}


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
    home_ids: HomeIds
    memory: Memory
    denials: Denials
    binding: threading.Lock = field(default_factory=threading.Lock)
    reports: Allowance = field(default_factory=lambda: Allowance(reports.BURST, reports.RATE))
    told: Allowance = field(default_factory=lambda: Allowance(reports.COMMANDS_BURST, reports.COMMANDS_RATE))
    exports: Exports = field(default_factory=Exports)


class Permits:
    """Of one session. What is not permitted raises DeniedError: `Denied`, or UnshownError."""

    def __init__(self, rules: Rules, session: Session) -> None:
        self._rules = rules
        self._holdings = rules.holdings
        self._session = session
        self._who = session.caller.principal

    def open(self, key: KeyRef, wrapped: bytes) -> None:
        """A data key that is in use goes out. Raises DeniedError."""
        try:
            self._use(key, self._session.uses.opens)
        except DeniedError:  # asked first as it is what mounts do, and quicker
            if not self._holdings.knows_blob(self._who, sha256(wrapped)):
                raise

    def make(self, key: KeyRef) -> None:
        """A new data key goes out, of whoever has the key: who made that key may. Raises DeniedError."""
        if not self._holdings.has_made(self._who, key):
            self._use(key, self._session.uses.makes)

    def prove(self, key: KeyRef, wrapped: bytes) -> None:
        """A data key is opened, and stays here. Raises DeniedError."""
        if not (
            self._holdings.has_made(self._who, key) or self._holdings.knows_blob(self._who, sha256(wrapped))
        ):
            self._use(key, self._session.uses.rewraps)

    def rewrap(self, key_from: KeyRef, key_to: KeyRef, wrapped: bytes) -> None:
        """A data key comes under another key. Raises DeniedError.

        Nobody may come to it so who could not before: the other key belongs at least to whoever the first one
        does. Else it is as if the data key went out.
        """
        source, target = self._holdings.owners(key_from), self._holdings.owners(key_to)
        if not source or not source <= target:
            self.open(key_from, wrapped)
            self.make(key_to)
            return
        self.prove(key_from, wrapped)
        self.prove(key_to, wrapped)

    def rewrap_to_all(self, key_from: KeyRef, to: Sequence[KeyRef], wrapped: bytes) -> None:
        """A data key comes under each of these. Raises DeniedError."""
        self.prove(key_from, wrapped)
        for key in to:
            self.rewrap(key_from, key, wrapped)

    def allowed(self, keys: Iterable[KeyRef], check: Callable[[KeyRef], None]) -> Iterator[KeyRef]:
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

    def bind(self, key: KeyRef, place: Place, *, again: bool) -> None:
        """The record of that place names a key that it did not name before. Raises DeniedError.

        `again`: it takes the place of one of the same home or datastore, so a key of that may come back.
        """
        known, own = self._holdings.owners(key), Owner(place.vm, place.datastore or "")
        owners = known - {own}
        if not owners and ((again and own in known) or self._holdings.has_made(self._who, key)):
            return  # also asked again, as the answer was lost
        shares = _SHARES.get(self._session.operation, _P.ACCESS)
        for owner in owners:  # nobody chooses the key of a VM that he may not read, whatever he manages
            self.require(shares, self._holdings.place(owner))
        if not owners:  # it may be anybody's
            self.require(_P.MANAGE_KEYS, ANYWHERE)
            self.require(_P.ACCESS, ANYWHERE)

    def _use(self, key: KeyRef, privileges: tuple[Privilege, ...] | None) -> None:
        """Raises DeniedError unless he has the privileges wherever the key is: of those where he has not it
        names one, of those that have a name here if there is one.
        """
        owners = self._holdings.owners(key)
        if not owners:
            self._use_unknown(key, privileges)
            return
        denied: list[Denied] = []
        open_to_him: list[str] = []
        for place in map(self._holdings.place, owners):
            try:
                if privileges is None and not self._session.caller.trusted:
                    raise Denied(_P.ACCESS, place)
                for privilege in privileges or ():
                    self.require(privilege, place)
            except Denied as error:
                denied.append(error)
            else:
                open_to_him.append(place.shown)
        if denied:
            first = min(denied, key=lambda error: (error.place.shown == error.place.vm, error.place.shown))
            if open_to_him:
                first.message += f", which has the key of {min(open_to_him)} as well"
            raise first

    def _use_unknown(self, key: KeyRef, privileges: tuple[Privilege, ...] | None) -> None:
        if self._session.caller.trusted:
            return
        try:
            if privileges is None:
                raise Denied(_P.ACCESS, ANYWHERE)
            for privilege in (*privileges, _P.MANAGE_KEYS):
                self.require(privilege, ANYWHERE)
        except DeniedError:
            raise UnshownError(f"nobody has shown a record of the key {key}") from None

    def owns(self, key: KeyRef, privilege: Privilege) -> bool:
        """Whether it is a key that he made, or of something that he has the privilege on."""
        try:
            for owner in self._holdings.owners(key):
                self.require(privilege, self._holdings.place(owner))
        except DeniedError:
            return False
        return bool(self._holdings.owners(key)) or self._holdings.has_made(self._who, key)

    def sees(self, keys: Sequence[KeyRef]) -> bool:
        """Whether he made each of them, or sees all that has it."""
        return self._session.caller.trusted or all(self.owns(key, _P.READ) for key in keys)

    def require_seen(self, keys: Sequence[KeyRef]) -> None:
        """Raises DeniedError unless he sees them all, or keys everywhere: about what has one, if known."""
        if self.sees(keys) or self.has(_P.READ_KEY_SERVERS, ANYWHERE):
            return
        for owner in (owner for key in keys for owner in self._holdings.owners(key)):
            self.require(_P.READ, self._holdings.place(owner))
        self.require(_P.READ_KEY_SERVERS, ANYWHERE)

    def has(self, privilege: Privilege, place: Place) -> bool:
        """Whether `require` would let him."""
        try:
            self.require(privilege, place)
        except DeniedError:
            return False
        return True

    def require_anywhere(self, privileges: Sequence[Privilege]) -> None:
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

    def require(self, privilege: Privilege, place: Place) -> None:
        """Raises Denied."""
        try:
            self._session.require(self._rules.authority, privilege, place)
        except DeniedError:
            raise Denied(privilege, place) from None
        used(privilege)
