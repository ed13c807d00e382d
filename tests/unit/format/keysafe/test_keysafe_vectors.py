"""Key safes against the vectors: `ok` ones come back as they are, the others fail for their reason."""

from pathlib import Path

import pytest

from ioflt.errors import CorruptDataError
from ioflt.format.keysafe import safe
from ioflt.testing import vectors

FOLDER = Path(__file__).parents[3] / "vectors" / "keysafe"


@pytest.mark.parametrize("vector", vectors.read(FOLDER), ids=lambda vector: vector.name)
def test_vector(vector: vectors.Vector) -> None:
    text = vector.body.decode()
    if vector.expect == "ok":
        assert safe.write(safe.parse(text)) == vector.headers.get("canonical", text)
    else:
        with pytest.raises(CorruptDataError) as caught:
            safe.parse(text)
        assert caught.value.reason == vector.expect
