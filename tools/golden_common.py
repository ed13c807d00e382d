"""What all makers of golden files do: pack what was made, list it, and never make it again."""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def pack(scratch: Path, name: str, archive: Path) -> None:
    """The directory `name` of `scratch`; who made it, and the order of its files, does not show."""
    command = ["tar", "--sparse", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"]
    subprocess.run([*command, "-C", scratch, "-cJf", archive, name], check=True)


def close(out: Path, contents: str, readme: str) -> None:
    """The lists: of what is in the archive, and of the files of `out`."""
    (out / "CONTENTS.sha256").write_text(contents)
    (out / "MANIFEST.sha256").write_text(
        "".join(
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
            for path in sorted(out.iterdir())
        )
    )
    (out / "README.md").write_text(readme)


def main(what: str, default: Path, make: Callable[[Path], None]) -> int:
    """The command: `make` into the directory that is named, which is not there yet."""
    parser = argparse.ArgumentParser(description=f"make {what}")
    parser.add_argument("out", nargs="?", type=Path, default=default)
    out: Path = parser.parse_args().out
    if out.exists():
        print(f"{out} exists; {what} is never made again", file=sys.stderr)
        return 1
    make(out)
    print(f"{what}: {out}")
    return 0
