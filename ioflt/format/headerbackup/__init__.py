"""Backups of the headers of a VM's containers, one file for a home. SPEC.md has the format."""
