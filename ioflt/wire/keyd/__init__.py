"""The protocol between keyd and those who need keys. See SPEC.md."""
