"""QEMU's monitor protocol, as bytes and messages. See SPEC.md."""
