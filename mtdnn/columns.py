"""What is shown: rows of cells as text with aligned columns, and how often a progress bar is drawn."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from mtdnn.errors import printable

ON_SCREEN, IN_FILE = 0.1, 30.0
MAX_INTERVAL = 10.0  # seconds after which tqdm draws slow steps one by one


def bar_settings() -> dict[str, Any]:
    """Settings of tqdm for a bar on standard error: drawn again in place on a screen; in a file or a pipe, which keeps
    each state, a line every 30 s, and none for what takes less."""
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        return {"file": sys.stderr, "mininterval": ON_SCREEN, "maxinterval": MAX_INTERVAL, "dynamic_ncols": True}
    return {"file": Lines(sys.stderr), "mininterval": IN_FILE, "maxinterval": IN_FILE + MAX_INTERVAL, "delay": IN_FILE}


class Lines(io.TextIOBase):
    """Writes each state of a bar as a line of its own, where a terminal would draw it over the one before.

    Args:
        stream: where to write.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]  # of which tqdm asks which characters it can draw
        return self.stream.encoding or "utf-8"

    def write(self, text: str) -> int:
        """Write a state of the bar; nothing for what only moves the cursor."""
        if line := text.strip():
            self.stream.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()


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
