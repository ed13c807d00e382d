"""Key providers, the cache of KEKs, and the client of keyd. SPEC.md has formats and derivations.

provider    what each key provider offers; `remote` has what those with servers share
native      keys derived from one that this host keeps (`native_file`). `slots` open it, by `credentials`,
            `tpm`, `tang` (`programs`); `slot_admin` changes them; `backup`, `shares` bring it back
kmip        keys on KMIP servers: `kmip_cluster` has the connections, `kmip_keys` asks, `kmip_store` has
            the files (`kmip_file`), `kmip_trial` tries each step
transit     keys wrapped by an OpenBao or Vault server: `transit_server` asks, `transit_store` has the
            files (`transit_file`)
store       the directory of all providers; `removed`: keys that this host does without; `destroy`
cache       KEKs in keyd's memory
client      asks keyd: `link` and `channel` are a connection, `starter` starts it; `mounts` asks mounts
"""
