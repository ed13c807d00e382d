"""The key-cache daemon: the only process that holds KEKs.

`service` does what is asked, `answer` translates messages to it, `access` says who may ask, `server` has the
sockets, `outward` says who may wait for which provider, `upkeep` does what nobody asks for, `__main__`
starts, confines and detaches it.

Of keys: `registry` has the providers that give them, `kept` those in memory, `sealing` those that are
sealed to the host, `missing` knows since when their providers do not give them, `users` who uses them.
`lockdown` has the mounts forget theirs, `watched` asks them what is written to a VM; `generations` keeps
with providers how often homes changed.
"""
