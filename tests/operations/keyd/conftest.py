"""A keyd of its own for each test, gone afterwards."""

import pytest

from ioflt import paths
from ioflt.keys.client import KeyClient


@pytest.fixture
def where(ioflt_home):
    """The directories of a keyd that is not running."""
    return paths.find().ensure()


@pytest.fixture
def keys(where):
    """A client of a running keyd."""
    with KeyClient.connect() as client:
        yield client
