"""A VMX that two mounts of one datastore change in turn: each commit replaces the backing file."""

from __future__ import annotations

import os
import threading

import pytest

from tests.mounted.place import Place
from tests.mounted.second import second_mount
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.fuse, pytest.mark.root]


def test_each_mount_goes_on_from_the_others_commit(homes: Place) -> None:
    with second_mount(homes) as other:
        here, there = homes.mountpoint / "thin" / "a.vmx", other / "thin" / "a.vmx"
        here.write_bytes(b'n = "0"\n')
        number = here.stat().st_ino

        for turn, path in enumerate([there, here, there, here, there], 1):
            with path.open("ab") as file:
                file.write(f'n{turn} = "x"\n'.encode())

            for reader in (here, there):
                fd = os.open(reader, os.O_RDONLY)  # an open asks the backing file, not a cache
                try:
                    assert len(os.read(fd, 4096).splitlines()) == turn + 1
                    assert os.fstat(fd).st_ino == number
                finally:
                    os.close(fd)


def test_a_writer_that_waited_writes_on_top_of_what_came_first(homes: Place) -> None:
    with second_mount(homes) as other:
        here, there = homes.mountpoint / "thin" / "b.vmx", other / "thin" / "b.vmx"
        here.write_bytes(b'n = "0"\n')
        there.read_bytes()
        first = here.open("ab", buffering=0)
        first.write(b'first = "x"\n')

        def append() -> None:
            with there.open("ab") as file:
                file.write(b'second = "x"\n')

        second = threading.Thread(target=append)
        second.start()
        first.close()
        second.join(PATIENCE_S)

        fd = os.open(here, os.O_RDONLY)
        try:
            assert os.read(fd, 4096) == b'n = "0"\nfirst = "x"\nsecond = "x"\n'
        finally:
            os.close(fd)


def test_a_close_beside_a_rename_or_an_unlink_brings_no_name_back(homes: Place) -> None:
    """close(2) commits the VMX: it must never re-create the name that was just taken away."""
    home = homes.mountpoint / "thin"
    for turn in range(40):
        old, new = home / "x.vmx", home / "y.vmx"
        file = old.open("wb", buffering=0)
        file.write(f'n = "{turn}"\n'.encode())
        closing = threading.Thread(target=file.close)
        closing.start()
        if turn % 2:
            old.rename(new)
        else:
            old.unlink()
        closing.join(PATIENCE_S)

        assert not old.exists()
        if turn % 2:
            assert new.read_bytes() == f'n = "{turn}"\n'.encode()
            new.unlink()
        assert os.listdir(home) == [] or all(not name.endswith(".vmx") for name in os.listdir(home))


def test_a_commit_does_not_bring_back_what_another_mount_removed(homes: Place) -> None:
    with second_mount(homes) as other:
        here, there = homes.mountpoint / "thin" / "c.vmx", other / "thin" / "c.vmx"
        here.write_bytes(b'n = "0"\n')
        with here.open("ab", buffering=0) as file:
            file.write(b'late = "x"\n')
            there.unlink()

        assert not (homes.datastore / "thin" / "c.vmx").exists()
