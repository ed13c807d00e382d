"""A secret key in a PKCS#12 file, as keytool keeps one. See SPEC.md."""
