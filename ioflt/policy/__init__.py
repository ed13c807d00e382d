"""Storage policies: what a VM's storage is to be like, and where it departs from that. No I/O.

`model` says what a policy is, `bundled` which come with ioflt, `text` how they are written, `changes` how a
set of them may change, `crypto` what a policy makes of a VM, `compliance` how a VM departs from its policy.
"""
