"""Stock cryptsetup and dissect.fve judge our containers: nobody's data is locked into ioflt."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from dissect.fve import luks

from ioflt.crypto.secret import Secret
from ioflt.crypto.xts import SectorCipher
from ioflt.errors import AuthenticationError
from ioflt.format.luks2 import header, keyslot, state
from ioflt.format.luks2.keyslot import Argon2idCost, Pbkdf2Cost
from ioflt.format.luks2.layout import (
    DATA_OFFSET,
    HEADERS_SIZE,
    KEYSLOTS_OFFSET,
    STATE_OFFSET,
    STATE_SLOT_OFFSETS,
)
from ioflt.format.luks2.token import IofltToken
from ioflt.types import SECTOR_SIZE, KeyRef

pytestmark = pytest.mark.interop("cryptsetup")

UUID = "6f9b0bfc-4757-4952-88c9-99092a4ffcba"
TOKEN = IofltToken(KeyRef("local", "k" * 140), False, bytes(range(92)))
BODY = b"".join(number.to_bytes(4) * 256 for number in range(5 * 4))  # five sectors
CHEAP = Argon2idCost(iterations=4, memory_kib=1024, lanes=2)
OURS, THEIRS = "ein Satz mit Übermut", "correct horse battery"


class Container:
    """A container in a file, with its DEK."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dek = Secret.random(64)
        self.write_header(header.new(UUID, self.dek, TOKEN))
        block = state.StateBlock(1, len(BODY), 1 << 62)
        self.write(STATE_SLOT_OFFSETS[1], state.pack(block, state.mac_key(self.dek, UUID)))
        body = bytearray(BODY)
        SectorCipher(self.dek).encrypt(body, 0)
        self.write(DATA_OFFSET, body)

    def write(self, offset: int, data: bytes | bytearray) -> None:
        self.path.touch()
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def read(self, offset: int, size: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def write_header(self, made: header.Header) -> None:
        self.write(0, b"".join(header.serialize(made)))

    @property
    def header(self) -> header.Header:
        found = header.parse(self.read(0, HEADERS_SIZE))
        header.check_profile(found)
        return found

    def add(self, passphrase: str, cost: Argon2idCost | Pbkdf2Cost) -> None:
        found = self.header
        added, offset, area = keyslot.make_keyslot(found, Secret(passphrase.encode()), self.dek, cost)
        self.write(offset, area)
        self.write_header(added.with_sequence(found.sequence + 1))

    def open_slot(self, number: int, passphrase: str) -> Secret:
        found = self.header
        place = keyslot.area_of(found, number)
        area = self.read(place.offset, place.size)
        return keyslot.open_keyslot(found, number, area, Secret(passphrase.encode()))

    def cryptsetup(self, *arguments: str, passphrase: str = "") -> subprocess.CompletedProcess[str]:
        action, *rest = arguments
        return subprocess.run(
            ["cryptsetup", "--batch-mode", action, str(self.path), *rest],
            input=passphrase,
            capture_output=True,
            text=True,
        )

    def add_by_cryptsetup(self, passphrase: str, *arguments: str) -> None:
        key = self.path.with_suffix(".key")
        key.write_bytes(self.dek.view())
        done = self.cryptsetup(
            "luksAddKey", "--key-size=512", f"--volume-key-file={key}", *arguments, passphrase=passphrase
        )
        key.unlink()
        assert done.returncode == 0, done.stderr

    def opens(self, passphrase: str, *arguments: str) -> bool:
        return self.cryptsetup("open", "--test-passphrase", *arguments, passphrase=passphrase).returncode == 0


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path / "disk.vmdk")


QUICK = ("--pbkdf=argon2id", "--pbkdf-memory=1024", "--pbkdf-force-iterations=4", "--pbkdf-parallel=2")


def test_cryptsetup_reads_the_header(container: Container) -> None:
    done = container.cryptsetup("luksDump")
    assert (done.returncode, done.stderr) == (0, "")
    for line in ("Version:       \t2", UUID, "0: ioflt", "offset: 1048576 [bytes]", "sector: 4096 [bytes]"):
        assert line in done.stdout
    assert container.cryptsetup("isLuks", "--type=luks2").returncode == 0


def test_cryptsetup_repairs_nothing(container: Container) -> None:
    """It rewrites a header copy that it finds wanting; ours are left as they are."""
    before = container.path.read_bytes()
    assert container.cryptsetup("luksDump").returncode == 0
    assert container.cryptsetup("repair").returncode == 0
    assert container.path.read_bytes() == before


@pytest.mark.parametrize("cost", [keyslot.RECOVERY_COST, CHEAP, Pbkdf2Cost("sha512", 1000)])
def test_cryptsetup_opens_our_slot(container: Container, cost: Argon2idCost | Pbkdf2Cost) -> None:
    container.add(OURS, cost)
    assert container.opens(OURS)
    assert not container.opens(THEIRS)


@pytest.mark.parametrize(
    "arguments",
    [
        QUICK,
        ("--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"),
        ("--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--keyslot-key-size=256"),
    ],
    ids=["argon2id", "pbkdf2", "128-bit area"],
)
def test_we_open_a_slot_of_cryptsetup(container: Container, arguments: tuple[str, ...]) -> None:
    if "--keyslot-key-size=256" in arguments:
        arguments = (*arguments, "--keyslot-cipher=aes-xts-plain64")
    container.add_by_cryptsetup(THEIRS, *arguments)
    assert container.header.sequence == 2
    assert container.open_slot(0, THEIRS) == container.dek
    with pytest.raises(AuthenticationError, match="wrong passphrase"):
        container.open_slot(0, OURS)


def test_both_write_into_one_header(container: Container) -> None:
    container.add(OURS, CHEAP)
    container.add_by_cryptsetup(THEIRS, *QUICK)
    container.add("third", CHEAP)
    for number, passphrase in enumerate((OURS, THEIRS, "third")):
        assert container.opens(passphrase, f"--key-slot={number}")
        assert container.open_slot(number, passphrase) == container.dek
    assert container.cryptsetup("luksKillSlot", "1").returncode == 0
    assert container.header.keyslots == (0, 2)
    container.write_header(container.header.without_keyslot(0).with_sequence(container.header.sequence + 1))
    assert not container.opens(OURS)
    assert container.opens("third")
    container.add(THEIRS, CHEAP)
    assert container.opens(THEIRS)
    assert container.header.tokens == (TOKEN,)


def test_cryptsetup_leaves_state_and_data_alone(container: Container, tmp_path: Path) -> None:
    before = container.read(STATE_OFFSET, 1 << 20)
    container.add_by_cryptsetup(THEIRS, *QUICK)
    backup = tmp_path / "header"
    assert container.cryptsetup("luksHeaderBackup", f"--header-backup-file={backup}").returncode == 0
    assert container.cryptsetup("luksHeaderRestore", f"--header-backup-file={backup}").returncode == 0
    assert container.cryptsetup("erase").returncode == 0
    assert container.read(STATE_OFFSET, 1 << 20) == before
    assert backup.stat().st_size <= STATE_OFFSET
    assert container.header.keyslots == ()


def test_cryptsetup_repairs_a_lost_copy_as_we_read_it(container: Container) -> None:
    container.add(OURS, CHEAP)
    for offset in (0, HEADERS_SIZE // 2):
        text = container.header.text
        container.write(offset, bytes(4096))
        assert container.header.text == text
        assert container.opens(OURS)


def test_a_label_given_by_cryptsetup_is_kept(container: Container) -> None:
    assert container.cryptsetup("config", "--label=Büro", "--subsystem=vm").returncode == 0
    assert (container.header.label, container.header.subsystem) == ("Büro", "vm")
    assert b"".join(header.serialize(container.header)) == container.read(0, HEADERS_SIZE)


@pytest.mark.parametrize("adder", ["ours", "theirs"])
def test_dissect_reads_the_data_by_passphrase(container: Container, adder: str) -> None:
    if adder == "ours":
        container.add(OURS, CHEAP)
    else:
        container.add_by_cryptsetup(OURS, *QUICK)
    with container.path.open("rb") as file:
        disk = luks.LUKS(file)
        disk.unlock_with_passphrase(OURS)
        assert disk.open().read(len(BODY)) == BODY


def test_the_areas_do_not_touch() -> None:
    assert KEYSLOTS_OFFSET + 786432 <= STATE_OFFSET < DATA_OFFSET
    assert len(BODY) % SECTOR_SIZE == 0
