"""Keys that are kept wrapped by a key of a PKCS#11 token (an HSM), which never gives that away.

provider       the KeyProvider; `file` is its file, `store` writes it; `trial` tries it out
token          the token, seen from here: a process of its own, asked by `messages`
worker         that process; `module` is what it does with the module of the token's vendor
"""
