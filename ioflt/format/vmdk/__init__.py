"""VMDK: descriptors, sparse headers, streamOptimized files. Layout and worked bytes: SPEC.md."""
