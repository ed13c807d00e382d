"""Builds `ioflt.crypto._sectors`, the sector loops in C, against OpenSSL's libcrypto. Called by setup.py."""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

ffibuilder = FFI()
ffibuilder.cdef(
    """
    int ioflt_sectors(
        const unsigned char *key, unsigned char *data, size_t count, uint64_t sector, int action);
    int ioflt_tags(
        const unsigned char *key, const unsigned char *uuid, const unsigned char *data, size_t count,
        uint64_t first, unsigned char *tags);
    struct ioflt_tags;
    struct ioflt_tags *ioflt_tags_begin(
        const unsigned char *key, const unsigned char *uuid, const unsigned char *data, size_t count,
        uint64_t first, unsigned char *tags);
    int ioflt_tags_end(struct ioflt_tags *job, int drop);
    """
)
ffibuilder.set_source(
    "ioflt.crypto._sectors",
    Path(__file__).with_name("_sectors_src.c").read_text(),
    libraries=["crypto"],
    extra_compile_args=["-O2", "-pthread"],
    extra_link_args=["-pthread"],
    optional=True,
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
