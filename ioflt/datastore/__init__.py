"""Files of a datastore: what a home is, how its files are stored, how they are converted.

Synchronous, no trio, no FUSE. `volume` is the way in; `container`, `plain` and `vmx` are the three kinds
of open file, all with the interface of `openfile.OpenFile`.

    volume, root, home, standing, records       which homes there are, and what is believed of each
    memory, sightings, copies                   what hosts have seen of them: old ones put back, raw copies
    locks                                       who uses a home, and who has it alone
    files, regular, walk, tree, namespace       files of a home by name: made, found, copied, renamed
    atomic                                      files that appear whole
    stateblocks, tagging, tracked               parts of an open file: state, tags, tracked changes
    clearlist, clearfiles                       which files of an encrypted home are clear, and their renames
    header, headers, recovery, wrapping, reach  headers of containers, and who may change them
    lifecycle, convert, fileid                  encrypt and decrypt
    recrypt, deep                               other KEKs; other DEKs
    clone, move, erase, newhome, registration   whole homes; `resume` goes on with what was interrupted
    transfer, package, ova, exchange            VMs in and out
    disks, diskfiles, chains, extend            virtual disks: descriptor and extents
    summary, inspect, check, seen, drill        what there is, whether it is sound, what keys it needs
"""
