"""KMIP 1.0 to 1.4: TTLV, its XML form, messages, and both sides of a conversation. See SPEC.md."""
