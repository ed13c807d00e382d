"""VMDK descriptors and sparse headers, read only. Layout and worked bytes: SPEC.md."""
