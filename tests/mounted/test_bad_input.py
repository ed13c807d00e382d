"""Hostile and unlucky datastores: one clear errno, one line in the log, no byte changed, all else goes on."""

import errno
import hashlib
import json
import os
import stat
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from ioflt.datastore import lifecycle
from ioflt.datastore.header import read_header
from ioflt.datastore.volume import Volume
from ioflt.format.luks2 import header as luks2
from ioflt.format.luks2.layout import DATA_OFFSET, HEADER_SIZE, STATE_SLOT_OFFSETS, STATE_SLOT_SIZE
from ioflt.keys.client import KeyClient
from tests.mounted.place import Place
from tests.waiting import eventually

pytestmark = [pytest.mark.fuse, pytest.mark.root]

TEXT = b"what the guest wrote " * 1000
VMX = b'memsize = "64"\n'


@pytest.fixture(scope="module")
def evil():
    """A mounted datastore; each test damages a file or home of its own."""
    base = Path(tempfile.mkdtemp(prefix=""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IOFLT_HOME", str(base / "home"))
        (base / "home").mkdir(mode=0o700)
        made = Place(base)
        try:
            for home in ("vm", "good"):
                (made.mount() if home == "vm" else made.mountpoint).joinpath(home).mkdir()
                (made.mountpoint / home / "disk").write_bytes(TEXT)
                (made.mountpoint / home / "vm.vmx").write_bytes(VMX)
            yield made
        finally:
            made.end()


@pytest.fixture(autouse=True)
def _others_go_on(request):
    """The mount lives, and the good home is as it was."""
    yield
    if "evil" in request.fixturenames:
        place = request.getfixturevalue("evil")
        assert (place.mountpoint / "good" / "disk").read_bytes() == TEXT
        assert (place.mountpoint / "good" / "vm.vmx").read_bytes() == VMX


def digest(top):
    """Everything of a datastore but access times."""
    found = hashlib.sha256()
    for path in sorted([top, *top.rglob("*")]):
        info = path.lstat()
        found.update(repr((str(path), info.st_mode, info.st_ino, info.st_size, info.st_mtime_ns)).encode())
        found.update(repr((info.st_ctime_ns, info.st_nlink, info.st_uid, info.st_gid)).encode())
        if stat.S_ISLNK(info.st_mode):
            found.update(os.readlink(path).encode())
        elif stat.S_ISREG(info.st_mode) and info.st_size < 64 << 20:
            found.update(path.read_bytes())
    return found.hexdigest()


def fails(number, call):
    with pytest.raises(OSError, match=r".") as caught:
        call()
    assert caught.value.errno == number, caught.value


def refused(place, number, call, *, again=False):
    """It fails so, says so once in the log (`again`: perhaps, if it said the same), and changes nothing."""
    before, lines = digest(place.datastore), len(place.complaints())
    fails(number, call)
    said = place.complaints()[lines:]
    assert len(said) == 1 or (again and not said), said
    assert digest(place.datastore) == before


# Containers


def cut_to(length):
    return lambda path: os.truncate(path, length)


def patched(*pieces):
    def damage(path):
        with path.open("r+b") as file:
            for offset, data in pieces:
                file.seek(offset)
                file.write(data)

    return damage


def rewritten(edit):
    """Header and checksums made anew over changed JSON: what an attacker would write."""

    def damage(path):
        with path.open("r+b") as file:
            header = read_header(file.fileno())
            metadata = json.loads(header.text)
            edit(metadata)
            forged = replace(header, text=json.dumps(metadata).encode(), metadata=metadata)
            primary, secondary = luks2.serialize(forged.with_sequence(header.sequence + 1))
            file.write(primary + secondary)

    return damage


def segment(**changes):
    return rewritten(lambda metadata: metadata["segments"]["0"].update(changes))


def token(**changes):
    return rewritten(lambda metadata: metadata["tokens"]["0"].update(changes))


def both(offset, data):
    return patched((offset, data), (HEADER_SIZE + offset, data))


def forged_state(path):
    patched(*((offset, os.urandom(STATE_SLOT_SIZE)) for offset in STATE_SLOT_OFFSETS))(path)


def foreign_state(path):
    with (path.parent / "disk").open("rb") as other:
        for offset in STATE_SLOT_OFFSETS:
            patched((offset, os.pread(other.fileno(), STATE_SLOT_SIZE, offset)))(path)


def requirement(metadata):
    metadata["config"]["requirements"] = {"mandatory": ["online-reencrypt-v2"]}


def reencryption(metadata):
    old = metadata["segments"]["0"]
    metadata["segments"] = {"0": old, "1": old | {"flags": ["backup-final"]}}


CONTAINERS = {
    "empty": (cut_to(0), errno.EUCLEAN),
    "cut in the first header": (cut_to(100), errno.EUCLEAN),
    "cut in the second header": (cut_to(HEADER_SIZE + 5000), errno.EUCLEAN),
    "cut before the state": (cut_to(STATE_SLOT_OFFSETS[0]), errno.EUCLEAN),
    "both copies flipped": (both(5000, b"\xff"), errno.EUCLEAN),
    "oversized header": (both(8, b"\xff" * 8), errno.EUCLEAN),
    "unknown version": (both(6, b"\0\3"), errno.EUCLEAN),
    "a plain file": (lambda path: path.write_bytes(TEXT), errno.EUCLEAN),
    "null cipher": (segment(encryption="cipher_null-ecb"), errno.EUCLEAN),
    "another cipher": (segment(encryption="aes-cbc-essiv:sha256"), errno.EUCLEAN),
    "another offset": (segment(offset=str(2 << 20)), errno.EUCLEAN),
    "another sector size": (segment(sector_size=512), errno.EUCLEAN),
    "another tweak": (segment(iv_tweak="8"), errno.EUCLEAN),
    "thin flag flipped": (token(provisioning="thick"), errno.EUCLEAN),
    "no token": (rewritten(lambda metadata: metadata.update(tokens={})), errno.EUCLEAN),
    "a token of another version": (token(version=99), errno.EUCLEAN),
    "re-encryption required": (rewritten(requirement), errno.EUCLEAN),
    "re-encryption under way": (rewritten(reencryption), errno.EUCLEAN),
    "forged state": (forged_state, errno.EUCLEAN),
    "state of another file": (foreign_state, errno.EUCLEAN),
    "provider that is not here": (token(provider="elsewhere"), errno.ENOKEY),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers(evil, name):
    damage, number = CONTAINERS[name]
    seen = evil.mountpoint / "vm" / name
    seen.write_bytes(TEXT)
    damage(evil.datastore / "vm" / name)
    refused(evil, number, seen.read_bytes)
    refused(evil, number, lambda: os.open(seen, os.O_RDWR), again=True)
    refused(evil, number, lambda: os.truncate(seen, 5), again=True)
    assert name in os.listdir(seen.parent)
    seen.stat()
    seen.rename(seen.with_suffix(".bad"))
    seen.with_suffix(".bad").unlink()


def test_one_good_header_copy_is_enough(evil):
    seen = evil.mountpoint / "vm" / "half"
    seen.write_bytes(TEXT)
    patched((5000, b"\xff" * 100))(evil.datastore / "vm" / "half")
    assert seen.read_bytes() == TEXT


def test_a_container_of_another_key(evil):
    """Copied from another home, its key is had; though its token names a KEK of another home."""
    (evil.datastore / "vm" / "copied").write_bytes((evil.datastore / "good" / "disk").read_bytes())
    assert (evil.mountpoint / "vm" / "copied").read_bytes() == TEXT


# Sealed VMX


def swapped(old, new):
    return lambda path: path.write_bytes(path.read_bytes().replace(old, new))


SEALED = {
    "empty": lambda path: path.write_bytes(b""),
    "plain": lambda path: path.write_bytes(VMX),
    "garbage": lambda path: path.write_bytes(os.urandom(5000)),
    "data flipped": lambda path: path.write_bytes(
        path.read_bytes()[:-20] + b"AAAA" + path.read_bytes()[-16:]
    ),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-60]),
    "huge": lambda path: os.truncate(path, 2 << 30),
    "NULs": lambda path: path.write_bytes(bytes(4096)),
    "a container": lambda path: path.write_bytes((path.parent / "disk").read_bytes()),
}


@pytest.mark.parametrize("name", SEALED)
def test_sealed_vmx(evil, name):
    seen = evil.mountpoint / "vm" / f"{name}.vmx"
    seen.write_bytes(VMX)
    SEALED[name](evil.datastore / "vm" / seen.name)
    refused(evil, errno.EUCLEAN, seen.read_bytes)
    refused(evil, errno.EUCLEAN, lambda: os.open(seen, os.O_RDWR), again=True)
    seen.unlink()


# Things that are no files


def test_planted_things_are_shown_as_what_they_are(evil):
    outside = evil.base / "outside"
    outside.write_bytes(b"outside")
    home, seen = evil.datastore / "vm", evil.mountpoint / "vm"
    for name in ("to-link", "to-fifo", "to-device"):
        (seen / name).write_bytes(TEXT)
        (home / name).unlink()
    (home / "to-link").symlink_to(outside)
    os.mkfifo(home / "to-fifo")
    os.mknod(home / "to-device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    eventually(lambda: (seen / "to-link").is_symlink())
    eventually(lambda: (seen / "to-fifo").is_fifo())
    eventually(lambda: (seen / "to-device").is_char_device())
    fails(errno.EACCES, lambda: os.open(seen / "to-device", os.O_RDONLY))
    assert outside.read_bytes() == b"outside"
    for name in ("to-link", "to-fifo", "to-device"):
        (seen / name).unlink()


def test_a_file_replaced_by_a_link_while_it_is_known(evil):
    """The mount works on the inode it looked up: a name that turns into a link leads it nowhere else."""
    outside = evil.base / "outside"
    outside.write_bytes(b"outside")
    seen, home = evil.mountpoint / "vm" / "turned", evil.datastore / "vm"
    seen.write_bytes(TEXT)
    with seen.open("r+b", buffering=0) as file:
        (home / "turned").unlink()
        (home / "turned").symlink_to(outside)
        file.write(b"written")
        os.fsync(file.fileno())
    assert outside.read_bytes() == b"outside"
    (home / "turned").unlink()


# Records


def new_home(place, name):
    seen = place.mountpoint / name
    seen.mkdir()
    (seen / "disk").write_bytes(TEXT)
    return seen


def clear_record(place):
    """A valid record of a clear home of this datastore."""
    home = place.datastore / "clear"
    if not home.exists():
        home.mkdir()
        place.ioflt("vm", "decrypt", home)
    return (home / ".ioflt").read_bytes()


RECORDS = {
    "removed": lambda place, path: path.unlink(),
    "garbage": lambda place, path: path.write_bytes(b"garbage\n"),
    "huge": lambda place, path: os.truncate(path, 2 << 30),
    "flipped": lambda place, path: path.write_bytes(path.read_bytes().replace(b"encrypted", b"clear")),
    "of another home": lambda place, path: path.write_bytes(
        (place.datastore / "vm" / ".ioflt").read_bytes()[:-5]
    ),
    "of a clear home": lambda place, path: path.write_bytes(clear_record(place)),
    "of the datastore": lambda place, path: path.write_bytes((place.datastore / ".ioflt").read_bytes()),
    "a directory": lambda place, path: (path.unlink(), path.mkdir()),
    "a link": lambda place, path: (path.unlink(), path.symlink_to(place.datastore / "vm" / ".ioflt")),
    "a FIFO": lambda place, path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("name", RECORDS)
def test_records(evil, name):
    """Without a valid record a home is read-only, and stored as the datastore's default says: encrypted."""
    seen = new_home(evil, f"record {name}")
    RECORDS[name](evil, evil.datastore / seen.name / ".ioflt")
    assert (seen / "disk").read_bytes() == TEXT
    refused(evil, errno.EROFS, lambda: os.open(seen / "disk", os.O_RDWR))
    refused(evil, errno.EROFS, lambda: (seen / "new").write_bytes(b"new"), again=True)
    refused(evil, errno.EROFS, lambda: (seen / "disk").unlink(), again=True)
    refused(evil, errno.EROFS, lambda: os.truncate(seen / "disk", 5), again=True)


def test_a_plain_file_planted_in_an_encrypted_home_is_not_believed(evil):
    (evil.datastore / "vm" / "planted.vmdk").write_bytes(b'RW 1 FLAT "../../etc/shadow" 0\n')
    refused(evil, errno.EUCLEAN, (evil.mountpoint / "vm" / "planted.vmdk").read_bytes)


def test_a_home_of_another_datastore(evil):
    """Its KEK is not to be had here."""
    other = evil.base / "other"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IOFLT_HOME", str(evil.base / "h2"))
        (evil.base / "h2").mkdir(mode=0o700)
        other.mkdir()
        foreign = Place(other)
        try:
            (foreign.mount() / "foreign").mkdir()
            (foreign.mountpoint / "foreign" / "disk").write_bytes(TEXT)
        finally:
            foreign.end()
    subprocess.run(["cp", "-a", foreign.datastore / "foreign", evil.datastore], check=True)
    seen = evil.mountpoint / "foreign"
    assert os.listdir(seen) == ["disk"]
    refused(evil, errno.ENOKEY, (seen / "disk").read_bytes)
    refused(evil, errno.ENOKEY, lambda: (seen / "new").write_bytes(b""), again=True)


# Changed under the mount


def test_cut_under_the_mount_while_open(evil):
    seen = evil.mountpoint / "vm" / "cut"
    seen.write_bytes(TEXT)
    with seen.open("rb", buffering=0) as file:
        os.truncate(evil.datastore / "vm" / "cut", DATA_OFFSET + 5000)
        assert len(file.read()) == len(TEXT)  # what is missing reads as holes do


def test_the_header_destroyed_under_the_mount_while_open(evil):
    seen = evil.mountpoint / "vm" / "headless"
    seen.write_bytes(TEXT)
    with seen.open("r+b", buffering=0) as file:
        patched((0, bytes(2 * HEADER_SIZE)))(evil.datastore / "vm" / "headless")
        file.write(b"goes on")
        os.fsync(file.fileno())
        assert file.read() == TEXT[7:]
    refused(evil, errno.EUCLEAN, seen.read_bytes)


# A full and a read-only datastore


@pytest.fixture
def on_loop(short_tmp, ioflt_home):
    """A datastore on a file system of 24 MiB of its own."""
    image, datastore = short_tmp / "image", short_tmp / "ds"
    datastore.mkdir()
    with image.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, datastore], check=True)
    place = None
    try:
        (datastore / "lost+found").rmdir()
        place = Place(short_tmp)
        (place.mount() / "vm").mkdir()
        yield place
    finally:
        if place is not None:
            place.end()
        subprocess.run(["umount", datastore], check=True)


@pytest.mark.loop
def test_a_full_datastore(on_loop):
    home = on_loop.mountpoint / "vm"
    (home / "kept").write_bytes(TEXT)
    with (home / "big").open("wb", buffering=0) as file:

        def fill():
            for _ in range(64):
                file.write(os.urandom(1 << 20))
                os.fsync(file.fileno())

        fails(errno.ENOSPC, fill)
        size = os.fstat(file.fileno()).st_size
        with suppress(OSError):
            os.fsync(file.fileno())
    assert (home / "kept").read_bytes() == TEXT
    fails(errno.ENOSPC, lambda: (home / "more").write_bytes(os.urandom(1 << 20)))
    with suppress(FileNotFoundError):
        (home / "more").unlink()
    assert (home / "big").stat().st_size == size
    (home / "big").unlink()
    (home / "again").write_bytes(TEXT)
    on_loop.remount()
    assert (home / "again").read_bytes() == TEXT
    assert (home / "kept").read_bytes() == TEXT
    assert not [line for line in on_loop.complaints() if "Traceback" in line or "bug" in line]


@pytest.mark.loop
def test_a_vmx_on_a_full_datastore_keeps_its_old_content(on_loop):
    home = on_loop.mountpoint / "vm"
    (home / "vm.vmx").write_bytes(VMX)
    free = os.statvfs(on_loop.datastore)
    with (on_loop.datastore / "filler").open("wb") as file, suppress(OSError):
        for _ in range(free.f_bavail):
            os.write(file.fileno(), bytes(4096))

    def write():
        with (home / "vm.vmx").open("ab", buffering=0) as file:
            file.write(b"x" * 200_000)
            os.fsync(file.fileno())

    fails(errno.ENOSPC, write)
    (on_loop.datastore / "filler").unlink()
    on_loop.remount()
    assert (home / "vm.vmx").read_bytes() in (VMX, VMX + b"x" * 200_000)


@pytest.mark.loop
def test_a_lock_tells_what_could_not_be_flushed(on_loop):
    home = on_loop.mountpoint / "vm"
    (home / "vm.vmx").write_bytes(VMX)
    free = os.statvfs(on_loop.datastore)
    with (home / "vm.vmx").open("ab", buffering=0) as file:
        file.write(b"x" * 200_000)
        with (on_loop.datastore / "filler").open("wb") as filler, suppress(OSError):
            for _ in range(free.f_bavail):
                os.write(filler.fileno(), bytes(4096))
        locked = on_loop.ioflt("keyd", "lock", "--suspend", check=False)
        try:
            assert locked.returncode == 1
            assert "vm/vm.vmx: what was written last could not be flushed" in locked.stderr
        finally:
            (on_loop.datastore / "filler").unlink()
            on_loop.ioflt("keyd", "unlock")
    assert (home / "vm.vmx").read_bytes() == VMX


@pytest.mark.loop
def test_a_datastore_that_becomes_read_only(on_loop):
    home = on_loop.mountpoint / "vm"
    (home / "disk").write_bytes(TEXT)
    (home / "vm.vmx").write_bytes(VMX)
    subprocess.run(["mount", "-o", "remount,ro", on_loop.datastore], check=True)
    before = digest(on_loop.datastore)
    try:
        assert (home / "disk").read_bytes() == TEXT
        assert (home / "vm.vmx").read_bytes() == VMX
        for call in (
            lambda: os.open(home / "disk", os.O_RDWR),
            lambda: os.open(home / "vm.vmx", os.O_RDWR),
            lambda: (home / "new").write_bytes(b""),
            lambda: (home / "new.vmx").write_bytes(b""),
            (home / "disk").unlink,
            lambda: (home / "disk").rename(home / "renamed"),
            lambda: os.truncate(home / "disk", 1),
            lambda: (home / "disk").chmod(0o600),
            lambda: (on_loop.mountpoint / "home").mkdir(),
        ):
            fails(errno.EROFS, call)
        assert digest(on_loop.datastore) == before
    finally:
        subprocess.run(["mount", "-o", "remount,rw", on_loop.datastore], check=True)


# --read-only


class Interrupted(Exception):
    pass


def interrupt(place, convert, name):
    """A conversion that ends in the middle of its second file, as a power cut would end it."""
    done = 0

    def progress(count):
        nonlocal done
        done += count
        if done > len(TEXT) + 5000:
            raise Interrupted

    with (
        KeyClient.connect() as keys,
        Volume.open(place.datastore, keys) as volume,
        pytest.raises(Interrupted),
    ):
        convert(volume, name, progress=progress)


def test_read_only_changes_nothing(place):
    for name in ("vm", "encrypting", "decrypting"):
        (place.datastore / name).mkdir()
    place.ioflt("vm", "decrypt", place.datastore / "encrypting")
    top = place.mount()
    for name in ("vm", "encrypting", "decrypting"):
        (top / name / "sub").mkdir()
        for file in ("a.vmdk", "b.vmdk", "sub/c.log"):
            (top / name / file).write_bytes(TEXT * 4)
        (top / name / "vm.vmx").write_bytes(VMX)
        (top / name / "link").symlink_to("a.vmdk")
    place.umount()
    interrupt(place, lifecycle.encrypt, "encrypting")
    interrupt(place, lifecycle.decrypt, "decrypting")
    (place.datastore / "noisy").mkdir()
    (place.datastore / "noisy" / "planted").write_bytes(TEXT)
    before = digest(place.datastore)
    place.mount("--read-only")
    for name in ("vm", "encrypting", "decrypting"):
        for file in ("a.vmdk", "b.vmdk", "sub/c.log"):
            assert (top / name / file).read_bytes() == TEXT * 4
        assert (top / name / "vm.vmx").read_bytes() == VMX
        with (top / name / "a.vmdk").open("rb") as file:
            os.fsync(file.fileno())
        for call in (
            lambda name=name: os.open(top / name / "a.vmdk", os.O_RDWR),
            lambda name=name: (top / name / "new").write_bytes(b""),
            lambda name=name: (top / name / "a.vmdk").unlink(),
            lambda name=name: (top / name / "a.vmdk").chmod(0o600),
            lambda name=name: os.utime(top / name / "a.vmdk"),
            lambda name=name: (top / name / "sub").rename(top / name / "bus"),
        ):
            fails(errno.EROFS, call)
    with suppress(OSError):
        (top / "noisy" / "planted").read_bytes()
    place.umount()
    assert digest(place.datastore) == before
