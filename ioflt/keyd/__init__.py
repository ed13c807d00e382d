"""The key-cache daemon: the only process that holds KEKs.

`service` does what is asked, `answer` translates messages to it, `access` says who may ask, `server` has the
sockets, `hygiene` keeps the process's memory to itself, `__main__` starts and detaches it.
"""
