"""Write the table of operations and roles into README.md, as the code has it."""

from __future__ import annotations

from pathlib import Path

from ioflt.access.matrix import placed

README = Path(__file__).parents[1] / "README.md"


def main() -> None:
    README.write_text(placed(README.read_text()))


if __name__ == "__main__":
    main()
