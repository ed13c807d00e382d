"""`--update-cli` rewrites the expected output of the scripts; review the difference."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-cli", action="store_true", help="rewrite tests/cli/*.txt from what happens")
