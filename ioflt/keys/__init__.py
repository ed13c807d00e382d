"""Key providers, the native provider's file, the cache of KEKs, and the client of keyd. See SPEC.md."""
