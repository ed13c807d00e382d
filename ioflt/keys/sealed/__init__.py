"""Keys of a provider with servers, sealed to this host for a time: rebooted, it serves without the servers.

`file` is the format, `seal` what binds it to the host, `cache` one provider's keys, `clock` the time that is
never set back. SPEC: keys/SPEC.md, "The sealed cache".
"""
