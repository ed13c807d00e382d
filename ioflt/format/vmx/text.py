"""The text both forms of a sealed VMX share: clear lines, `encryption.keySafe`, `encryption.data`."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

from ioflt.errors import MalformedError
from ioflt.format import dictionary
from ioflt.format.dictionary import Dictionary
from ioflt.format.keysafe.escape import unbase64

#: Longest VMX that is sealed, in bytes.
MAX_PLAINTEXT: Final = dictionary.MAX_SIZE

#: Longest sealed text read: the base64 of the longest plaintext, and ample clear lines.
MAX_TEXT: Final = 2 * MAX_PLAINTEXT

KEY_SAFE: Final = "encryption.keySafe"
DATA: Final = "encryption.data"

_SAFE_LINE = re.compile(rb"(?im)^[ \t]*encryption\.keysafe[ \t]*=")
_DATA_LINE = re.compile(rb"(?im)^[ \t]*encryption\.data[ \t]*=")


@dataclass(frozen=True, slots=True)
class SealedVmx:
    """A sealed VMX with every line as it was: `bytes(vmx.lines)` is the text parsed."""

    lines: Dictionary

    @property
    def safe(self) -> str:
        """The text of the key safe."""
        return self.lines[KEY_SAFE]

    @property
    def data(self) -> bytes:
        """The sealed box that holds the VMX. Raises MalformedError "bad base64"."""
        return unbase64(self.lines[DATA])


def parse(text: bytes) -> SealedVmx:
    """The sealed VMX in `text`. Raises MalformedError "too large", "no key safe" or "no encryption data"."""
    lines = dictionary.parse(text, MAX_TEXT)
    if KEY_SAFE not in lines:
        raise MalformedError("no key safe")
    if DATA not in lines:
        raise MalformedError("no encryption data")
    return SealedVmx(lines)


def write(clear: Dictionary, safe: str, data: bytes) -> bytes:
    """The text of a sealed VMX: the clear lines first, as VMware writes it."""
    lines = clear.set(KEY_SAFE, safe).set(DATA, base64.b64encode(data).decode())
    return bytes(lines)


def is_sealed(text: bytes) -> bool:
    """Whether `text` has both lines of a sealed VMX, in whichever form. Says nothing of their content."""
    return _SAFE_LINE.search(text) is not None and _DATA_LINE.search(text) is not None
