"""Fixtures of tests with TLS: an authority, and a certificate of it for a server on this host."""

from __future__ import annotations

from pathlib import Path

import pytest

from ioflt.testing.pykmip import HOST, Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom both sides trust."""
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> tuple[Path, Path]:
    """A server's, and its private key."""
    return authority.issue("server", hosts=(HOST, "localhost"))
