"""Deep recrypt: the files of a home get new DEKs, their data is rewritten.

`journal` rewrites a container where it is, `replacement` beside itself; `rekey` has what they share. They
work over `storage`, so that tests can crash them at every step. `disk` is the storage that is real, `home`
does a whole home.
"""
