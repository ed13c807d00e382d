"""Every kind of open file, through the contract."""

import os
from dataclasses import replace

import pytest

from ioflt.datastore import files
from ioflt.datastore.standing import Treatment
from ioflt.datastore.volume import Volume
from ioflt.filters.trace import Counters
from ioflt.testing.check_openfile import check_openfile
from ioflt.testing.local_keys import LocalKeys
from ioflt.types import HomeState

KINDS = {
    "plain": (HomeState.CLEAR, "disk", None),
    "thin": (HomeState.ENCRYPTED, "disk", True),
    "thick": (HomeState.ENCRYPTED, "disk", False),
    "thin with tags": (HomeState.ENCRYPTED, "disk", True),
    "thick with tags": (HomeState.ENCRYPTED, "disk", False),
    "vmx": (HomeState.ENCRYPTED, "vm.vmx", None),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_open_file(kind, seed, tmp_path, ioflt_home):
    default, name, thin = KINDS[kind]
    with LocalKeys(ioflt_home) as keys:
        Volume.init(tmp_path / "datastore", default, keys)
        with Volume.open(tmp_path / "datastore", keys) as volume:
            home = volume.make_home("vm", 0o755)
            if "tags" in kind:
                home.store(replace(home.standing().record, integrity=True))
            os.close(files.create(home, home.fd, name, mode=0o600, thin=thin))
            counters = Counters() if seed else None

            def open_again():
                return files.open_file(
                    home,
                    files.open_regular(home.fd, name, os.O_RDWR),
                    home.treatment(name),
                    writable=True,
                    place=lambda: (home.fd, home.fd, name),
                    counters=counters,
                )

            assert (home.treatment(name) is Treatment.CLEAR) == (kind == "plain")
            check_openfile(open_again, seed)
