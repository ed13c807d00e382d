"""A share of a provider's key, as text that is printed and typed in again. See SPEC.md."""
