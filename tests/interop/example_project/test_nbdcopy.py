"""nbdcopy from an export of the encrypted disk of a test bed, with and without faults."""

import subprocess

import pytest


def nbdcopy(source, target):
    return subprocess.run(["nbdcopy", str(source), str(target)], capture_output=True, text=True, check=False)


def test_the_copy_is_the_disk(nbd_export, encrypted_vm, tmp_path):
    assert nbdcopy(nbd_export, tmp_path / "copy.raw").returncode == 0
    assert encrypted_vm.is_disk(tmp_path / "copy.raw")


@pytest.mark.parametrize("fault", ["locked", "eio-at-lba"])
def test_it_fails_when_the_disk_does(nbd_export, testbed, tmp_path, fault):
    with testbed.fault(fault):
        done = nbdcopy(nbd_export, tmp_path / "copy.raw")
    assert done.returncode != 0
    assert done.stderr.startswith("nbdcopy: ")


def test_a_slow_disk_is_no_error(nbd_export, encrypted_vm, testbed, tmp_path):
    with testbed.fault("slow-disk", 2):
        assert nbdcopy(nbd_export, tmp_path / "copy.raw").returncode == 0
    assert encrypted_vm.is_disk(tmp_path / "copy.raw")
