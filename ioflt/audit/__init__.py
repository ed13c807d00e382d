"""Enhanced logging: events, and a log that shows when one was changed or taken out. SPEC.md has both.

`event` and `chain` do no I/O. `log` writes files, `reader` reads them, `sinks` tells others.
"""
