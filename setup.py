"""Only the native files; everything else stands in setup.cfg.

They are optional: without compiler or headers the build warns and goes on.
IOFLT_BUILD_NATIVE=0 leaves them out.
"""

import os

from setuptools import setup

NATIVE = ["ioflt/crypto/_sectors_build.py:ffibuilder", "ioflt/fuse/_hook_build.py:ffibuilder"]

setup(cffi_modules=NATIVE if os.environ.get("IOFLT_BUILD_NATIVE") != "0" else [])
