"""Fixtures for pytest, there wherever ioflt is installed. A bed is made when the first test asks for one.

testbed            the bed: `with testbed.fault("kms-down"): ...`; all faults are off after each test
encrypted_vm       its VM: paths, and known checksums
kms                the address of its key server, HOST:PORT
datastore_mount    where its files are seen decrypted
nbd_export         a URI of the VM's disk, served read-only to several clients at a time
proxy_vm           the QMP socket of a running VM into which disks can be plugged
testbed_scenario   override it (scope: session) for another scenario than kmip

Tests that use a bed have its $IOFLT_HOME.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # who has no use for a bed does not wait for it
    from ioflt.testing.testbed.bed import Bed
    from ioflt.testing.testbed.vm import EncryptedVm


class Testbed:
    """`bed`, whose faults are on while a block runs."""

    __test__ = False

    def __init__(self, bed: Bed) -> None:
        self.bed = bed

    @contextmanager
    def fault(self, name: str, number: int | None = None) -> Iterator[None]:
        """That fault, as `ioflt testbed fault`."""
        from ioflt.testing.testbed import faults

        faults.switch_on(self.bed, name, number)
        try:
            yield
        finally:
            faults.switch_off(self.bed, name)


@pytest.fixture(scope="session")
def testbed_scenario() -> str:
    """The scenario of the bed."""
    return "kmip"


@pytest.fixture(scope="session")
def _ioflt_bed(testbed_scenario: str) -> Iterator[Bed]:
    from ioflt.testing.testbed.bed import Bed
    from ioflt.testing.testbed.scenario import SCENARIOS

    base = Path(tempfile.mkdtemp(prefix=""))  # pytest's own are too long for the sockets in it
    bed = Bed.up(base / "bed", SCENARIOS[testbed_scenario])
    yield bed
    bed.down()
    shutil.rmtree(base)


@pytest.fixture
def testbed(_ioflt_bed: Bed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Testbed]:
    """The bed, one for the whole run."""
    from ioflt.testing.testbed import faults

    monkeypatch.setenv("IOFLT_HOME", str(_ioflt_bed.home))
    yield Testbed(_ioflt_bed)
    for name in _ioflt_bed.state.faults:
        faults.switch_off(_ioflt_bed, name)


@pytest.fixture
def encrypted_vm(testbed: Testbed) -> EncryptedVm:
    """The VM of the bed."""
    from ioflt.testing.testbed.vm import EncryptedVm

    return EncryptedVm(testbed.bed)


@pytest.fixture
def kms(testbed: Testbed) -> str:
    """The address of the bed's key server."""
    server = testbed.bed.state.server
    if server is None:
        pytest.fail(f"the scenario {testbed.bed.scenario.name} has no key server", pytrace=False)
    return server.address


@pytest.fixture
def datastore_mount(testbed: Testbed) -> Path:
    """Where the datastore is seen decrypted."""
    return testbed.bed.mountpoint


@pytest.fixture
def nbd_export(testbed: Testbed) -> Iterator[str]:
    """The URI of the VM's disk, exported for the bed's service (`ioflt backup export`)."""
    from ioflt.testing.testbed.export import exported

    with exported(testbed.bed) as uri:
        yield uri


@pytest.fixture
def proxy_vm(testbed: Testbed) -> Path:
    """The QMP socket of the proxy VM, which is itself encrypted and goes on until the bed ends."""
    testbed.bed.start_proxy()
    return testbed.bed.monitor
