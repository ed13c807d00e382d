"""The command, and certificates for servers of others."""

import os
import subprocess

import pytest

from tests import forked
from tests.authority import authority, certificate

__all__ = ["authority", "certificate"]


@pytest.fixture
def ioflt(ioflt_home):
    """Runs `ioflt`, on this host or on the one whose $IOFLT_HOME is `home`."""

    def run(*arguments, code=0, home=ioflt_home):
        done = subprocess.run(
            [forked.ioflt(), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=os.environ | {"IOFLT_HOME": str(home)},
        )
        assert done.returncode == code, done.stderr
        return done

    return run
