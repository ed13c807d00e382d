"""What tests of ioflt, and of what is built on it, need: contracts, fakes that pass them, real peers.

check_filter, check_openfile, check_provider,
check_transport                                 a contract as a function, for any implementation
local_keys, kmip_server                         keys without a daemon; a KMIP server that can misbehave
pykmip, openbao                                 servers of others, started here
vectors                                         test vectors as files
"""
