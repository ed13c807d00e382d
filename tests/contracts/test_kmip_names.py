"""The names and numbers of tags and enumerations are those of PyKMIP's tables, which end at KMIP 2.0."""

import json
import subprocess
import sys

import pytest

from ioflt.wire.kmip.enumerations import ENUMERATIONS, MASKS, fold, number_of
from ioflt.wire.kmip.tags import BY_NAME

#: A process of its own, as the package warns wherever it is imported.
DUMP = """
import enum, json
from kmip.core import enums
tables = {name: kind for name, kind in vars(enums).items() if isinstance(kind, type)}
wanted = {name: kind for name, kind in tables.items() if issubclass(kind, enum.Enum)}
print(json.dumps({name: {one.name: one.value for one in kind} for name, kind in wanted.items()}, default=str))
"""

#: Numbers that it names, and that stand for nothing.
NO_TAGS = {"DEFAULT", "RESERVED"}


@pytest.fixture(scope="module")
def theirs():
    command = [sys.executable, "-W", "ignore", "-c", DUMP]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_tags(theirs):
    ours = {fold(name): number for name, number in BY_NAME.items()}
    tags = {name: number for name, number in theirs["Tags"].items() if name not in NO_TAGS}
    assert len(tags) > 300
    assert {name: ours.get(fold(name)) for name in tags} == tags


def test_enumerations(theirs):
    shared = [name for name in theirs if name in ENUMERATIONS or name in MASKS]
    assert len(shared) > 50
    for table in shared:
        found = {name: number_of(table, name) for name in theirs[table]}
        assert found == theirs[table], table
