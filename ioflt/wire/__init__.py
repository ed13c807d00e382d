"""Protocols without I/O: bytes in, messages out. Each protocol's words stand in the `SPEC.md` beside it."""
