"""The command `ioflt`: text in, text or JSON out, exit codes. What it does is done by the rooms below.

main                                            the table of commands; `lazy` imports one when it is used
datastore, vm, transfer, recrypt, erase, disk   datastores and VMs
inspect, recovery                               looking at what is stored; ways to contents without ioflt
mount, mount_helper                             mounts; as mount(8) calls for them
provider, provider_*, kmip, transit, pkcs11     key providers
key, key_use, keyd                              keys, and the daemon that has them
session, places, passphrase, processes          what commands share: keyd, names, secrets, users of keys
render, streams, completion                     output; standard streams; the shell
failures, exits                                 what went wrong, and the number for scripts
hints, advice, key_advice                       what to do about it
"""
