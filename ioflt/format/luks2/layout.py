"""Where things are in a container, in bytes from its start (SPEC.md has the picture)."""

from __future__ import annotations

#: Bytes of one header copy: 4096 binary, the rest JSON. The smallest that LUKS2 allows.
HEADER_SIZE = 16384
#: Bytes of the binary part of a header copy.
BINARY_SIZE = 4096
#: Bytes of the JSON part, its closing NUL included.
JSON_SIZE = HEADER_SIZE - BINARY_SIZE
#: Where the primary and the secondary copy begin.
HEADER_OFFSETS = (0, HEADER_SIZE)
#: Both copies: what `header.parse` reads.
HEADERS_SIZE = 2 * HEADER_SIZE

#: The keyslots area; three slots of 252 KiB fit.
KEYSLOTS_OFFSET = 2 * HEADER_SIZE
KEYSLOTS_SIZE = 786432

#: The state area belongs to no LUKS2 area: the last 128 KiB before the data.
STATE_OFFSET = 917504
STATE_SIZE = 131072
#: Bytes of one state slot, and where the two are. A slot of its own 64 KiB keeps a torn write from both.
STATE_SLOT_SIZE = 4096
STATE_SLOT_OFFSETS = (STATE_OFFSET, STATE_OFFSET + STATE_SIZE // 2)

#: Where the encrypted body begins.
DATA_OFFSET = 1048576

#: The cipher of body and keyslots, in cryptsetup's words.
CIPHER = "aes-xts-plain64"
#: Bytes of a DEK: two AES-256 keys.
KEY_SIZE = 64
