"""A test bed for programs that back up VMs: a datastore, a key server, an encrypted VM; faults on demand.

`pip install ioflt[testbed]`; `ioflt testbed --help`; fixtures for pytest in `plugin`.

bed        one bed, a directory with an $IOFLT_HOME of its own: up, down, what it is
scenario   what beds there are
guest      the VM: its files, and a disk with a file system and known files
kms        the key server, and the three ways in which it is of no use
faults     the faults by name: what really causes each, switched on and off
faulty     a filter at the bottom of the bed's mount that fails or is slow, by switches in shared memory
mount      the process of the bed's mount: that of any mount, with that filter
export     `ioflt backup export` with the same
vm         the VM as a test uses it
proxy      a VM into which disks are plugged
commands   `ioflt testbed`
plugin     fixtures
"""
