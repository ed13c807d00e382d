"""How one connection has manifests of backups signed: by who may back up the VM, and with an event of it.

keyd sees the digest alone. So what it states names the VM, and who verifies compares that with the manifest.
"""

from __future__ import annotations

import os

from ioflt.access.objects import Place
from ioflt.access.privileges import Privilege
from ioflt.audit.attestation import ManifestStatement
from ioflt.audit.event import added
from ioflt.errors import BusyError
from ioflt.keyd.permits import Permits, Rules
from ioflt.keyd.service import Service
from ioflt.keyd.session import Session
from ioflt.keyd.shared_keys import Owner
from ioflt.keyd.telling import Telling
from ioflt.wire.keyd.values import Signing


class Vouching:
    """Of one session."""

    def __init__(
        self, service: Service, rules: Rules, session: Session, permits: Permits, telling: Telling
    ) -> None:
        self._attester = service.attester
        self._recorder = service.recorder
        self._rules = rules
        self._session = session
        self._permits = permits
        self._telling = telling

    def check(self, about: Signing) -> Place:
        """Where the VM is. Raises DeniedError unless he may back it up."""
        place = self._place(about)
        self._permits.require(Privilege.BACKUP, place)
        return place

    def sign(self, manifest: bytes, about: Signing) -> tuple[bytes, bytes, str]:
        """The statement about the manifest of that SHA-256, its signature, the public key in PEM.

        There is an event of it before. Raises DeniedError, BusyError, StorageError, MalformedError.
        """
        place = self.check(about)
        uid = self._session.peer.uid
        if uid not in (0, os.geteuid()) and not self._rules.told.take(uid, 1):
            raise BusyError(f"uid {uid} has more backups signed than keyd takes")
        changes = [added("backup", about.place), added("backup.manifest", manifest.hex())]
        told = self._telling.event("backup sign", place, changes=changes, privilege=Privilege.BACKUP)
        self._recorder.record(told)
        made = ManifestStatement(manifest.hex(), about.home_id, place.datastore, told.by, told.time)
        return (*self._attester.sign(made), self._attester.public_key())

    def _place(self, about: Signing) -> Place:
        """By the record that keyd believes; else, as the VM may be gone, by what keyd stated when it signed
        the manifest before. Without either, what is given on its datastore does not count.
        """
        known, datastore = self._rules.holdings.home(about.home_id), None
        if known is not None:
            datastore = known.datastore
        elif about.signature:
            said = self._attester.said(about.statement, about.signature)
            datastore = said.datastore if said is not None and said.home == about.home_id else None
        shown = self._rules.holdings.place(Owner(about.home_id, datastore or "")).shown
        return Place(about.home_id, datastore, about.shown if shown == about.home_id else shown)
