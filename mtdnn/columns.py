"""What is shown: rows of cells as text with aligned columns, and how often a progress bar is drawn."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mtdnn.errors import printable

ON_SCREEN, IN_FILE = 0.1, 30.0


def seconds_between_bars() -> float:
    """Seconds between two states of a progress bar on standard error, of which a file keeps each."""
    return ON_SCREEN if sys.stderr.isatty() or "ipykernel" in sys.modules else IN_FILE


def table(lines: Sequence[Sequence[str]], *, right: bool = False) -> str:
    """Text with aligned columns, separated by two spaces.

    Args:
        lines: rows of cells, all of the same length.
        right: align all columns but the first to the right, as for numbers.
    """
    lines = [list(map(printable, line)) for line in lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]

    def aligned(line: Sequence[str]) -> str:
        first, *others = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        if right:
            others = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        return "  ".join([first, *others]).rstrip()

    return "\n".join(map(aligned, lines))
