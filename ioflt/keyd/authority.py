"""Who may do what here: the state in `access.json`, decided by, and changed by those who may.

Threads: any number decide side by side, each by the state that it finds; changes follow one another.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from ioflt.access import changes, decide, text
from ioflt.access.decide import Decision
from ioflt.access.objects import Place
from ioflt.access.principals import Caller, Kind, Principal
from ioflt.access.privileges import Privilege
from ioflt.access.state import AccessState, first
from ioflt.errors import CorruptDataError, IofltError, MalformedError
from ioflt.keyd import accounts
from ioflt.keys import files

_log = logging.getLogger(__name__)


class Authority:
    """Over one file, which is made when it is not there: then `owner`, whose keyd this is, is Administrator.

    While the file cannot be read nobody may do anything but root of the host and the owner, who can mend it.
    """

    def __init__(self, path: Path, owner: Principal) -> None:
        """Raises StorageError when the first file cannot be written."""
        self._path = path
        self._owner = owner
        self._changing = threading.Lock()
        if not path.exists():
            files.create(path, text.write(first(owner)))
        self._state: AccessState | IofltError = self._load()

    @property
    def state(self) -> AccessState:
        """Raises CorruptDataError, StorageError: why the file cannot be read."""
        if isinstance(self._state, IofltError):
            raise self._state
        return self._state

    def owns(self, caller: Caller) -> bool:
        """Whether it is root of the host, or whose keyd this is."""
        return caller.trusted or caller.principal == self._owner

    def decide(self, caller: Caller, privilege: Privilege, place: Place) -> Decision:
        """Raises what `state` does."""
        if isinstance(self._state, IofltError) and self.owns(caller):
            return Decision(True, f"{self._path} cannot be read, and is {self._owner}'s to mend")
        return decide.decide(self.state, caller, privilege, place)

    def require(self, caller: Caller, privilege: Privilege, place: Place) -> None:
        """Raises DeniedError, which names privilege and object, and what `state` does."""
        if not self.decide(caller, privilege, place).allowed:
            raise decide.denial(privilege, place)

    def change(self, make: Callable[[AccessState], AccessState]) -> AccessState:
        """Have the state that `make` makes of the one before, durably. `make` also says who may not.

        Raises what `make` raises, StorageError, UsageError when it is too large, and what `state` does.
        """
        with self._changing:
            made = make(self.state)
            if made != self._state:
                files.replace(self._path, text.write(made))
                self._state = made
            return made

    @staticmethod
    def check_duties(state: AccessState) -> None:
        """Raises DeniedError where someone on this host would have both of the duties that are separate."""
        if state.separate_duties:
            changes.check_duties(state, _known(state))

    def _load(self) -> AccessState | IofltError:
        try:
            return text.parse(files.read(self._path, text.MAX_SIZE))
        except CorruptDataError as error:
            broken: IofltError = MalformedError("does not say who may what", error.message, file=self._path)
        except IofltError as error:
            broken = error
        _log.error("nobody may do anything but its owner: %s", broken)
        return broken


def _known(state: AccessState) -> list[Caller]:
    """Everyone whom the permissions reach, as far as this host can name them."""
    named = {each.principal for each in state.permissions}
    groups = [each for each in named if each.kind is Kind.GROUP]
    return [*map(accounts.caller_named, sorted(named)), *accounts.members(groups)]
