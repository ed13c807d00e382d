"""qcow2, QEMU's image format: read, and written as a stream. Layout and worked bytes: SPEC.md."""
