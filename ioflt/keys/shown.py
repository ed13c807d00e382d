"""The records that keyd found valid, for a keyd that started since: it knows of no key whose it is."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from ioflt.errors import CorruptDataError
from ioflt.format.record import record as form
from ioflt.format.vmx import sealed
from ioflt.types import KeyRef
from ioflt.wire.keyd import requests, values
from ioflt.wire.keyd.requests import CheckRecord

#: Keys of which the record is kept, and the longest that is.
MAX_KEYS: Final = 8_192
MAX_SIZE: Final = 64 << 10


class ShownRecords:
    """By the keys that they name. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_key: OrderedDict[KeyRef, CheckRecord] = OrderedDict()

    def keep(self, record: CheckRecord) -> None:
        """A valid one. That of a clear home names no keys, and says of none whose it is."""
        if len(record.payload) > MAX_SIZE or not form.parse_payload(record.payload).keys:
            return
        with self._lock:
            for key in record.by:
                self._by_key[key.ref] = record
                self._by_key.move_to_end(key.ref)
                if len(self._by_key) > MAX_KEYS:
                    self._by_key.popitem(last=False)

    def about(self, request: requests.RequestBody) -> list[CheckRecord]:
        """Those that keyd may need for that request."""
        with self._lock:
            if isinstance(request, requests.SealRecord):  # also of its datastore, and of who has a key so far
                found = list(self._by_key.values())
            else:
                found = [self._by_key[key] for key in _keys_of(request) if key in self._by_key]
        return list({id(record): record for record in found}.values())


def _keys_of(request: requests.RequestBody) -> Iterable[KeyRef]:
    """The keys that are used by it."""
    match request:
        case requests.Generate(key) | requests.SealVmx(key) | requests.UseKey(key):
            return (key.ref,)
        case requests.BeginExport(key=values.Key() as key):
            return (key.ref,)
        case requests.Rewrap(source, key):
            return source.key.ref, key.ref
        case requests.Unwrap(items):
            return (item.key.ref for item in items)
        case requests.Prove(items):
            return (item.wrapped.key.ref for item in items)
        case requests.GetKeyStates(keys):
            return (key.ref for key in keys)
        case requests.RewrapVmx(text, keys):
            return *_named(text), *(key.ref for key in keys)
        case requests.ProveVmx(text):
            return _named(text)
        case requests.GetConfigKey(head):
            return _named(head)
    return ()


def _named(text: bytes) -> tuple[KeyRef, ...]:
    try:
        return sealed.peek(text).keys
    except CorruptDataError:
        return ()
