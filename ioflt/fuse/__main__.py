"""`python -m ioflt.fuse`: the process of one mount. Started by `ioflt mount`."""

from __future__ import annotations

import sys

from ioflt.fuse import hook


def main() -> int:
    """The exit code is 0 after an orderly end."""
    hook.install()  # has to come before pyfuse3 is imported
    from ioflt.fuse import process

    return process.main()


if __name__ == "__main__":
    sys.exit(main())
