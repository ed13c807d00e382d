"""The mounted datastores of tests/mounted, for other programs to work on."""

from tests.mounted.conftest import homes, place

__all__ = ["homes", "place"]

#: Tests of a project of its own, which `test_testbed` runs.
collect_ignore = ["example_project"]
