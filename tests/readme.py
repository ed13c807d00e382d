"""The commands of README, as tests run them: what is printed there is what was tried."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


class Recipe:
    """The code block that begins with the comment `# TITLE`, its paths replaced by those of a test.

    Lines that set variables are part of each run. At the end of a `with` every line has to have been run.
    """

    def __init__(self, title: str, paths: Mapping[str, Path], **environment: str) -> None:
        blocks: list[str] = re.findall(r"^```\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
        (block,) = (block for block in blocks if block.startswith(f"# {title}\n"))
        for there, here in paths.items():
            block = re.sub(rf"{re.escape(there)}(?![\w-])", str(here), block)
        lines = block.splitlines()[1:]
        self._settings = [line for line in lines if line.startswith("export ")]
        self._commands = [line for line in lines if line and line not in self._settings]
        self._left = set(self._commands)
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = os.environ | {"PATH": programs} | environment

    def __enter__(self) -> Recipe:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        if kind is None:
            assert not self._left, f"of README's commands no test runs {self._left}"

    def run(self, *beginnings: str) -> str:
        """Run the lines that begin so, or else all; what they print."""
        chosen = [line for line in self._commands if line.startswith(beginnings or "")]
        assert chosen, beginnings
        self._left -= set(chosen)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join((*self._settings, *chosen))],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{chosen}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr
