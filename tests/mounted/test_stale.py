"""What a killed mount leaves is cleaned up by the next one, at once."""

from __future__ import annotations

import errno
import os

import pytest

from tests.mounted.place import Place

pytestmark = pytest.mark.fuse


@pytest.mark.parametrize("how", ["mount", "umount"])
def test_a_dead_mount_is_cleaned_up_while_the_kernel_still_remembers_its_attributes(
    homes: Place, how: str
) -> None:
    (homes.mountpoint / "thin" / "file").write_bytes(b"content")
    homes.mountpoint.stat()
    homes.kill()
    with pytest.raises(OSError) as raised:  # noqa: PT011  # the number is what is asked
        os.statvfs(homes.mountpoint)
    assert raised.value.errno == errno.ENOTCONN
    homes.ioflt(how, *([homes.datastore] if how == "mount" else []), homes.mountpoint)
    assert os.path.ismount(homes.mountpoint) == (how == "mount")
    assert homes.complaints() == []
