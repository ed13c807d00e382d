"""Keys derived from one key (KDK) that this host keeps, wrapped once for each way to open it.

provider       the KeyProvider; `file` is its file, `store` makes, opens and restores it
slots          wrap and open the KDK: by passphrase, key file, `credentials`, `tpm`, `tang` (`programs` runs
               what these need); `slot_admin` changes them
backup         the KDK as a file under a passphrase; `shares`: as k of n texts
"""
