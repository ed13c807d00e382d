"""Keys that are kept wrapped by a key of an OpenBao or Vault server, which that never gives away.

provider       the KeyProvider; `file` is its file, `store` writes it
server         asks the server
"""
