"""The manifest of a backup: what one point in time of a VM holds, and who vouches for it. See SPEC.md."""
