"""The client of keyd: all that can be asked of it."""

from __future__ import annotations

import select

from ioflt.access import text
from ioflt.access.state import AccessState
from ioflt.errors import PeerError
from ioflt.keys.event_requests import EventRequests
from ioflt.keys.export_requests import ExportRequests
from ioflt.keys.key_requests import KeyRequests
from ioflt.keys.provider_requests import ProviderRequests
from ioflt.keys.watch_requests import WatchRequests
from ioflt.transport import owned
from ioflt.wire import failure
from ioflt.wire.failure import Failure
from ioflt.wire.keyd import replies, requests
from ioflt.wire.keyd.access import Change, Object

#: Seconds that a keyd may need to end once it no longer listens.
END_TIMEOUT_S = 10.0


class KeyClient(KeyRequests, ProviderRequests, EventRequests, ExportRequests, WatchRequests):
    """Also who may do what, and the end of keyd."""

    def access(self) -> AccessState:
        """What the user may see of who may do what. Raises DeniedError, CorruptDataError."""
        return text.parse(self._ask(requests.GetAccess(), replies.Access).text)

    def change_access(self, change: Change) -> None:
        """Another permission, role, folder or service. Raises DeniedError, and why it makes no sense."""
        self._ask(requests.ChangeAccess(change), replies.Done)

    def explain_access(self, who: str, privilege: str, on: Object) -> replies.Explained:
        """Whether someone has a privilege on an object, and why. Raises DeniedError, UsageError."""
        return self._ask(requests.ExplainAccess(who, privilege, on), replies.Explained)

    def stop(self) -> None:
        """End keyd, and return when its process is gone. Raises NotListening when it is not running,
        DeniedError.
        """
        with self._connect(start=False) as link, link.process() as process:
            answer = link.call(requests.Stop())
            if isinstance(answer, Failure):
                raise failure.rebuild(answer)
            if not self._paths.joined:  # a member waits for the process alone
                owned.wait_free(self._paths.keyd_socket)
            if not select.select([process], [], [], END_TIMEOUT_S)[0]:
                raise PeerError("keyd no longer listens, but its process does not end")
