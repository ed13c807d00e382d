"""README's "disks from Python", as it stands there, against a keyd; and who may not."""

from __future__ import annotations

import random
import re
from functools import partial
from pathlib import Path

import pytest

from ioflt import backup, paths
from ioflt.datastore import tree
from ioflt.datastore.volume import Volume
from ioflt.errors import DeniedError, ProviderLocked
from ioflt.keys import starter
from ioflt.keys.client import KeyClient
from ioflt.types import HomeState
from ioflt.wire.keyd import access as wire
from tests.unit.backup.disks import text

README = Path(__file__).parents[3] / "README.md"
SIZE = 8 << 20
DATA = random.Random(1).randbytes(3 << 20)


@pytest.fixture
def datastore(ioflt_home: Path, tmp_path: Path) -> Path:
    """With the encrypted VM web01, whose thin disk has data at its end."""
    path = tmp_path / "ds"
    with KeyClient.connect(operation="vm import") as keys:
        Volume.init(path, HomeState.ENCRYPTED, keys)
        with Volume.open(path, keys) as volume:
            home = volume.make_home("web01", 0o755)
            side = tree.HomeSide(home)
            with tree.created(side, home.fd, "web01-flat.vmdk") as file:
                file.truncate(SIZE)
                file.write(SIZE - len(DATA), DATA)
            with tree.created(side, home.fd, "web01.vmdk") as file:
                file.write(0, text(f'RW {SIZE // 512} VMFS "web01-flat.vmdk"'))
    return path


def test_the_example(datastore: Path, tmp_path: Path) -> None:
    found = re.search(
        r"^```python\n(from ioflt import backup\n.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL
    )
    assert found is not None
    copy = tmp_path / "web01.raw"
    code = found[1].replace("/srv/ds", str(datastore)).replace("/mnt/other/web01/web01.raw", str(copy))
    exec(compile(code, "README.md", "exec"), {})
    assert copy.read_bytes() == bytes(SIZE - len(DATA)) + DATA
    assert copy.stat().st_blocks * 512 < SIZE  # holes stayed holes


def test_who_has_no_key(datastore: Path) -> None:
    with backup.open_datastore(datastore) as volume:
        with backup.open_disk(volume, "web01", "web01.vmdk") as disk:
            assert disk.capacity == SIZE
        with KeyClient.connect() as keys:
            keys.lock("refuse")
        with pytest.raises(ProviderLocked) as caught:
            backup.open_disk(volume, "web01", "web01.vmdk")
    assert backup.number_of(caught.value) == ("VIX_E_CRYPTO_LOCKED", 17010)


def test_only_who_has_access_reads(datastore: Path) -> None:
    """What keyd decides for a service, when root asks for it."""

    def asking(operation: str, who: str | None = None) -> KeyClient:
        reach = partial(starter.greet, paths.find(), operation=operation, as_principal=who)
        return KeyClient.connect(lambda start: reach(start=start))

    with asking("mount") as root:
        root.change_access(wire.CreateService("tool", None))
        with (
            asking("backup run", "service:tool") as tool,
            Volume.open(datastore, root) as own,
            Volume.open(datastore, tool) as volume,
        ):
            with pytest.raises(DeniedError, match=r"Cryptographer\.Access on web01") as caught:
                backup.open_disk(volume, "web01", "web01.vmdk")
            assert backup.number_of(caught.value) == ("VIX_E_HOST_USER_PERMISSIONS", 3014)
            record = own.home("web01").standing().record
            assert record is not None
            root.change_access(wire.CreateRole("reads", ("Cryptographer.Access",)))
            root.change_access(
                wire.Grant("service:tool", "reads", wire.Object("vm", record.home_id, "web01"))
            )
            with backup.open_disk(volume, "web01", "web01.vmdk") as disk:
                assert disk.read(SIZE - len(DATA), len(DATA)) == DATA


def test_the_public_names() -> None:
    for name in backup.__all__:
        assert getattr(backup, name) is not None
    with pytest.raises(AttributeError):
        backup.nothing  # noqa: B018
