"""Rows of cells → text with aligned columns."""

from __future__ import annotations

from collections.abc import Sequence

from mtdnn.errors import printable


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
