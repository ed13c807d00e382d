"""Sealed VMX files: `sealed` is ioflt's own form, `passphrase` VMware's. Layout and worked bytes: SPEC.md."""
