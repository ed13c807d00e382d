"""Who may do what: privileges, roles, permissions and their decisions. No input, no output. See SPEC.md."""
