"""The text that Prometheus reads: every label escaped, the file replaced as a whole."""

import os

import pytest

from ioflt.cli import prometheus
from ioflt.errors import StorageError


def test_labels_are_escaped():
    metrics = [
        ("up", "Whether.", [({}, 1)]),
        ("vms", "How many.", [({"datastore": 'a"b\\c\nd', "state": "clear"}, 2), ({"datastore": ""}, 0)]),
    ]
    assert prometheus.text(metrics) == (
        "# HELP up Whether.\n# TYPE up gauge\nup 1\n"
        "# HELP vms How many.\n# TYPE vms gauge\n"
        'vms{datastore="a\\"b\\\\c\\nd",state="clear"} 2\nvms{datastore=""} 0\n'
    )


def test_the_file_is_replaced_and_nothing_is_left(tmp_path):
    path = tmp_path / "ioflt.prom"
    path.write_text("before")
    name = os.fsdecode(b"\xff")
    prometheus.write(path, [("vms", "How many.", [({"datastore": name}, 1)])])
    assert path.read_bytes().endswith(b'vms{datastore="\\\\udcff"} 1\n')
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path) == ["ioflt.prom"]
    with pytest.raises(StorageError):
        prometheus.write(tmp_path / "none" / "ioflt.prom", [])
