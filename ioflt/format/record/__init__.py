"""The `.ioflt` records of datastores and homes. SPEC.md has the format."""
