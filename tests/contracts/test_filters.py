"""Every link of the filter chain, and whole chains, through the contract."""

import os

import pytest

from ioflt.crypto.secret import Secret
from ioflt.crypto.xts import PythonSectorCipher, SectorCipher
from ioflt.filters.backing import Backing
from ioflt.filters.base import Filter
from ioflt.filters.cbt import Cbt
from ioflt.filters.changemap import ChangeMap
from ioflt.filters.fault import Fault, Plan
from ioflt.filters.trace import Counters, Trace
from ioflt.filters.vmcrypt import VmCrypt
from ioflt.format.cbt import sidecar
from ioflt.format.cbt.sidecar import Stamp
from ioflt.testing.check_filter import check_filter

KEY = bytes(range(64))


def crypt(below, cipher=SectorCipher, *, thin=True, initialised=None):
    return VmCrypt(below, cipher(Secret(KEY)), thin=thin, initialised=initialised)


def tracked(below):
    fd = os.memfd_create("changes")
    return Cbt(below, ChangeMap(fd, sidecar.clear_key(), lambda: Stamp(0, 0, 0)))


CHAINS = {
    "backing": lambda below: below,
    "pass": Filter,
    "trace": lambda below: Trace(below, Counters()),
    "fault": lambda below: Fault(below, Plan()),
    "thin": crypt,
    "thin, pure": lambda below: crypt(below, PythonSectorCipher),
    "thick, being filled": lambda below: crypt(below, thin=False, initialised=0),
    "thick, pure, being filled": lambda below: crypt(below, PythonSectorCipher, thin=False, initialised=0),
    "cbt": tracked,
    "all": lambda below: tracked(Trace(Fault(crypt(Trace(below, Counters())), Plan()), Counters())),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("start", [0, 1 << 20])
@pytest.mark.parametrize("chain", CHAINS)
def test_link(chain, start, seed, tmp_path):
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        check_filter(CHAINS[chain](Backing(fd, start)), seed)
    finally:
        os.close(fd)
