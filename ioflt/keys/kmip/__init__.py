"""Keys on a cluster of KMIP servers that replicate each other.

provider       the KeyProvider; `file` is its file, `store` has that and our certificates
cluster        connections to the servers; `keys` asks them for keys, `kek` says what they are there
generations    what homes were seen, kept with their keys
criterion      attributes as people write them, for a search
trial          tries each step, for people
"""
