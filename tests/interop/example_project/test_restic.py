"""restic on the encrypted VM of a test bed, with and without faults."""

import subprocess

import pytest


@pytest.fixture
def restic(tmp_path, monkeypatch):
    """Runs restic with a new repository."""
    monkeypatch.setenv("RESTIC_REPOSITORY", str(tmp_path / "repository"))
    monkeypatch.setenv("RESTIC_PASSWORD", "correct horse")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments):
        return subprocess.run(["restic", *map(str, arguments)], capture_output=True, text=True, check=False)

    assert run("init").returncode == 0
    return run


def test_what_is_restored_is_what_was_there(restic, encrypted_vm, tmp_path):
    assert restic("backup", encrypted_vm.home).returncode == 0
    assert "5 unmodified" in restic("backup", "--verbose", encrypted_vm.home).stdout
    assert restic("restore", "latest", "--target", tmp_path).returncode == 0
    assert encrypted_vm.departures(tmp_path / encrypted_vm.home.relative_to("/")) == []


def test_a_reader_of_the_storage_gets_ciphertext(encrypted_vm):
    assert encrypted_vm.departures(encrypted_vm.stored) == sorted(encrypted_vm.files)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("locked", "required key not available"),
        ("privilege-missing", "permission denied"),
        ("eio-at-lba", "input/output error"),
    ],
)
def test_a_backup_that_is_not_whole_says_so(restic, encrypted_vm, testbed, fault, says):
    with testbed.fault(fault):
        done = restic("backup", encrypted_vm.home)
    assert done.returncode == 3  # restic: "some source data could not be read"
    assert says in done.stderr.lower()
