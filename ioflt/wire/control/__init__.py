"""The protocol of a mount's control socket. See SPEC.md."""
