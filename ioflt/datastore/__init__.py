"""Files of a datastore: what a home is, how its files are stored, how they are converted.

Synchronous, no trio, no FUSE. `volume` is the way in; `container`, `plain` and `vmx` are the three kinds
of open file, all with the interface of `openfile.OpenFile`.
"""
