"""Builds `ioflt.fuse._hook` against libfuse's headers. Called by setup.py."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from cffi import FFI


def _include_flags() -> list[str]:
    try:
        found = subprocess.run(
            ["pkg-config", "--cflags", "fuse3"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ["-I/usr/include/fuse3"]
    return shlex.split(found.stdout)


#: One after the other, as one source: each calls those before it.
_SOURCES = ("_fastpath_src.c", "_requests_src.c", "_hook_src.c")

ffibuilder = FFI()
ffibuilder.cdef(
    """
    const char *ioflt_attach(const char *pyfuse3);
    int ioflt_sessions(void);
    int ioflt_reply_error(void *request, int error);
    int ioflt_reply_lseek(void *request, int64_t offset);
    void ioflt_use(uintptr_t loop);
    int ioflt_start(int cores);
    void ioflt_stop(void);
    void ioflt_shut_all(int shut);
    void *ioflt_file_new(void);
    void ioflt_file_free(void *file);
    void ioflt_file_open(
        void *file, int fd, uint64_t start, uint64_t *length, int writes, int holes, int clamps,
        const unsigned char *key, unsigned char *marks, uint64_t blocks);
    void ioflt_file_stays(void *file);
    int ioflt_file_shut(void *file);
    void ioflt_file_wait(void *file);
    int ioflt_handle_add(uint64_t number, void *file);
    int ioflt_handle_drop(uint64_t number);
    void ioflt_counts(long long totals[6]);
    extern "Python" {
        void ioflt_on_lseek(void *request, uint64_t handle, int64_t offset, int whence);
        void ioflt_on_fallocate(
            void *request, uint64_t handle, int mode, int64_t offset, int64_t length);
    }
    """
)
ffibuilder.set_source(
    "ioflt.fuse._hook",
    "".join(Path(__file__).with_name(name).read_text() for name in _SOURCES),
    extra_compile_args=["-O2", "-pthread", *_include_flags()],
    extra_link_args=["-pthread"],
    optional=True,
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
