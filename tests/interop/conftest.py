"""The mounted datastores of tests/mounted, for other programs to work on."""

from tests.mounted.conftest import homes, place

__all__ = ["homes", "place"]
