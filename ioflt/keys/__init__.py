"""Key providers, the cache of KEKs, and the client of keyd. SPEC.md has formats and derivations.

provider       what each key provider offers; `remote` has what those share whose keys are elsewhere,
               `wrapping` what those share whose keys are wrapped there; `trial`: how trying one is told of
native/        keys derived from one that this host keeps: as many ways to open it, its backup, its shares
kmip/          keys on a cluster of KMIP servers
transit/       keys wrapped by an OpenBao or Vault server
pkcs11/        keys wrapped by a token (an HSM), whose module has a process of its own
sealed/        keys of providers with servers, sealed to this host for a time
directory      the directory of all providers; `provider_file`: what their files share
removed        keys that this host does without; `destroy`: the end of a key
servers        on which servers a provider's keys are
cache          KEKs in keyd's memory; `state`: what keyd knows of one
client         asks keyd: `link` and `channel` are a connection, `starter` starts it; `mounts` asks mounts
"""
