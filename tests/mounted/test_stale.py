"""Mount points: what a killed mount leaves is cleaned up at once, and what cannot be one is refused."""

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


@pytest.mark.parametrize("where", [".", "home", "home/sub"])
def test_a_datastore_is_not_mounted_inside_itself(place: Place, where: str) -> None:
    target = place.datastore / where
    target.mkdir(parents=True, exist_ok=True)
    result = place.ioflt("mount", place.datastore, target, check=False)
    assert result.returncode != 0
    assert "inside itself" in result.stderr
    assert not target.is_mount()
