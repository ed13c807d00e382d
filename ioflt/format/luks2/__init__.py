"""LUKS2 containers: what each file of an encrypted home is on the datastore. SPEC.md has the format."""
