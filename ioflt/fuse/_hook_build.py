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


ffibuilder = FFI()
ffibuilder.cdef(
    """
    const char *ioflt_attach(const char *pyfuse3);
    int ioflt_sessions(void);
    int ioflt_reply_error(void *request, int error);
    int ioflt_reply_lseek(void *request, int64_t offset);
    extern "Python" {
        void ioflt_on_lseek(void *request, uint64_t handle, int64_t offset, int whence);
        void ioflt_on_fallocate(
            void *request, uint64_t handle, int mode, int64_t offset, int64_t length);
    }
    """
)
ffibuilder.set_source(
    "ioflt.fuse._hook",
    Path(__file__).with_name("_hook_src.c").read_text(),
    extra_compile_args=["-O2", *_include_flags()],
    optional=True,
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
