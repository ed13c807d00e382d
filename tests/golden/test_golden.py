"""Golden datastores: what an earlier version wrote opens in this one, given its provider's backup."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioflt.crypto.secret import Secret
from ioflt.datastore import check, files
from ioflt.datastore.volume import Volume
from ioflt.keyd.service import Service
from ioflt.keys.native.store import NativeStore
from ioflt.paths import find
from tests import forked

GOLDEN = Path(__file__).parents[2] / "images" / "golden"
VERSIONS = sorted(path for path in GOLDEN.iterdir() if path.is_dir())

BACKUP_PASSPHRASE = b"golden provider"
RECOVERY_PASSPHRASE = b"golden recovery"


def listed(path: Path) -> dict[str, str]:
    """Name → SHA-256, as sha256sum writes it."""
    lines = (line.split("  ", 1) for line in path.read_text().splitlines())
    return {name: digest for digest, name in lines}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(params=VERSIONS, ids=lambda path: f"version {path.name}")
def golden(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def datastore(golden: Path, short_tmp: Path) -> Path:
    subprocess.run(["tar", "-C", short_tmp, "-xJf", golden / "datastore.tar.xz"], check=True)
    return short_tmp / "ds"


@pytest.fixture
def keys(golden: Path, ioflt_home: Path) -> Iterator[Service]:
    """The provider, brought back from its backup on a machine that never saw it."""
    where = find().ensure()
    with Secret(BACKUP_PASSPHRASE) as passphrase:
        NativeStore(where.providers).restore((golden / "provider.backup").read_bytes(), passphrase)
    service = Service(where)
    yield service
    service.close()


def contents(volume: Volume) -> Iterator[tuple[str, str]]:
    """Path and SHA-256 of every file, as a mount shows it."""
    for home in (volume.root, *map(volume.home, volume.homes())):
        for directory, subdirectories, names, fd in os.fwalk(".", dir_fd=home.fd):
            if home.is_root:
                subdirectories.clear()
            for name in names:
                path = os.path.normpath(os.path.join(directory, name))
                if path.startswith(".ioflt"):
                    continue
                backing = os.open(name, os.O_RDONLY, dir_fd=fd)
                treatment = home.treatment(path, backing)
                file = files.open_file(home, backing, treatment, writable=False, place=lambda: None)
                yield os.path.join(home.name, path), sha256(bytes(file.read(0, file.length)))
                file.close()


def test_it_was_never_edited(golden: Path) -> None:
    manifest = listed(golden / "MANIFEST.sha256")
    assert {name: sha256((golden / name).read_bytes()) for name in manifest} == manifest
    assert {path.name for path in golden.iterdir()} == {*manifest, "MANIFEST.sha256", "README.md"}


def test_every_file_has_its_contents(golden: Path, datastore: Path, keys: Service) -> None:
    with Volume.open(datastore, keys, read_only=True) as volume:
        assert dict(contents(volume)) == listed(golden / "CONTENTS.sha256")


def test_it_is_sound(datastore: Path, keys: Service) -> None:
    found = check.run(datastore, keys, data=True).entries
    assert {entry.path for entry in found if entry.finding} == {"plain01/.ioflt"}  # clear on purpose
    assert {os.path.dirname(entry.path) for entry in found if entry.state == "clear"} == {"plain01"}


def test_nothing_but_the_clear_home_can_be_read_behind_it(golden: Path, datastore: Path) -> None:
    """So the tests above prove something."""
    raw = {
        str(path.relative_to(datastore)): sha256(path.read_bytes())
        for path in datastore.rglob("*")
        if stat.S_ISREG(path.stat().st_mode)
    }
    same = {name for name, digest in listed(golden / "CONTENTS.sha256").items() if raw[name] == digest}
    assert same == {name for name in raw if name.startswith("plain01/") and ".ioflt" not in name}


def test_without_its_provider_nothing_opens(datastore: Path, ioflt_home: Path) -> None:
    done = ioflt("check", datastore)
    ioflt("keyd", "stop")
    assert done.returncode == 13
    assert done.stdout.count("no provider local is configured here") > 2


@pytest.mark.interop("cryptsetup")
def test_stock_cryptsetup_opens_it_by_its_recovery_passphrase(datastore: Path) -> None:
    disk = datastore / "db01" / "db01-flat.vmdk"
    command = ["cryptsetup", "open", "--test-passphrase", "--type", "luks2", "--key-file", "-", str(disk)]
    assert subprocess.run(command, input=RECOVERY_PASSPHRASE, capture_output=True).returncode == 0
    assert subprocess.run(command, input=b"golden", capture_output=True).returncode == 2


@pytest.mark.fuse
def test_the_mount_shows_it_and_takes_writes(golden: Path, datastore: Path, ioflt_home: Path) -> None:
    passphrase = ioflt_home / "passphrase"
    passphrase.write_bytes(BACKUP_PASSPHRASE + b"\n")
    passphrase.chmod(0o600)
    mountpoint = ioflt_home / "mnt"
    mountpoint.mkdir()
    try:
        for arguments in (
            ("provider", "restore", golden / "provider.backup", "--passphrase-file", passphrase),
            ("mount", datastore, mountpoint),
        ):
            done = ioflt(*arguments)
            assert done.returncode == 0, done.stderr
        expected = listed(golden / "CONTENTS.sha256")
        assert {name: sha256((mountpoint / name).read_bytes()) for name in expected} == expected
        for name in ("notes.txt", "web01/web01.vmx", "web01/web01-flat.vmdk", "db01/db01-flat.vmdk"):
            with (mountpoint / name).open("ab") as file:
                file.write(b"# appended\n")
    finally:
        ioflt("umount", mountpoint)
        report = json.loads(ioflt("check", datastore, "--json").stdout)
        ioflt("keyd", "stop")
    assert [entry["path"] for entry in report["entries"] if entry["finding"]] == ["plain01/.ioflt"]


def ioflt(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [forked.ioflt(), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
