"""Certificates for servers."""

from tests.authority import authority, certificate

__all__ = ["authority", "certificate"]
