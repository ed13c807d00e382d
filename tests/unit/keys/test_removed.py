"""Keys that a host does without: remembered over a restart."""

import pytest

from ioflt.errors import MalformedError
from ioflt.keys.removed import RemovedKeys
from ioflt.types import MAX_KEY_ID, KeyRef

KEYS = [KeyRef("local", "a"), KeyRef("local", "b" * MAX_KEY_ID), KeyRef("loca", "l:a"), KeyRef("ü", "\n\\")]


def test_they_are_remembered(tmp_path):
    removed = RemovedKeys(tmp_path)
    for key in KEYS:
        assert key not in removed
        removed.add(key)
        removed.add(key)
    again = RemovedKeys(tmp_path)
    assert all(key in again for key in KEYS)
    assert KeyRef("local", "c") not in again
    again.discard(KEYS[0])
    again.discard(KEYS[0])
    assert [key in RemovedKeys(tmp_path) for key in KEYS] == [False, True, True, True]


def test_what_a_killed_process_left_is_removed(tmp_path):
    RemovedKeys(tmp_path).add(KEYS[0])
    (tmp_path / f".{'f' * 64}.{'0' * 16}").write_bytes(b"half")
    assert KEYS[0] in RemovedKeys(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'["local"]', b'["local", 1]', b'["a","b","c"]', b"\xff", b"[" * 9999]
)
def test_what_names_no_key_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(MalformedError, match="removed key"):
        RemovedKeys(tmp_path)
