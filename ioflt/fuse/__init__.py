"""The mount: FUSE requests translated into calls of `datastore`, and back. The only room that knows pyfuse3.

Two processes: this one, confined, and its `broker`, which reaches keyd and unmounts.

    process, starter                          the process: its start, its end
    mount, mountinfo, resuming, log           from a datastore to a served mount point; what goes on beside it
    broker                                    its half that is not confined
    fastpath, hook                            reads and writes in C; what pyfuse3 lacks
    operations: served, names, files          requests: what all share, those for names, those for open files
    nodes, handles, opening, ranges, filler   what the kernel knows of; open files, who may do what to them
    gate, turns, control                      locks and quiesces, by turns; who asks for them, over a socket
    events                                    what keyd's event log is told
    kernel, forgetting, errnos                what the kernel is told, errors as errnos

Threads in C take requests from the kernel (`_requests_src.c`). They answer reads and writes of files whose
filter chain has a native form, while nothing in Python works on the file; all else goes to pyfuse3, in order.

Tasks: pyfuse3 runs one per such request, `hook.serve` one per lseek and fallocate, `control` one per client,
`filler` one per thick file that is not filled yet, `forgetting` a few when descriptors run short, `resuming`
and `events` one each; all in one thread. What may touch the disk or ask keyd runs in worker threads. Between
two awaits of a task nothing else of the loop runs: a request that finds its range free and its data cached is
served without taking a lock.

What may wait for a key server that hangs has threads of its own, as many as requests are served at once, and
holds no lock that another home needs.

Locks, in the order in which they are taken: those on the names of homes (`Names`; of several in one order), a
node's `opening`, a node's range locks.
"""
