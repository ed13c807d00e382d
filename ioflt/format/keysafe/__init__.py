"""VMware's key locators and key safes: text ↔ frozen objects. Grammar and worked bytes: SPEC.md."""
