"""A grid of runs → results.csv: every cell runs once, also after kills, on one or more processes.

Several studies may run on one folder at the same time, on one machine or on several that share a file system: finished
cells are on disk, and running cells are locked.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tqdm import tqdm

from mtdnn.columns import ON_SCREEN, bar_settings
from mtdnn.files import write_text
from mtdnn.study.cells import (
    Ended,
    error_stamp,
    note,
    outcomes,
    read_error,
    read_outcome,
    remove_weights,
    write_error,
    writing_results,
)
from mtdnn.study.grid import Cell, Grid, write_study_files
from mtdnn.study.size import measured_by
from mtdnn.study.table import Line, lines_of, to_csv

logger = logging.getLogger(__name__)

WAIT_SECONDS = 1.0
"""How long to wait for the end of a cell before the others are looked at again."""

MAX_LOSSES = 2
"""How often a cell is run again after its process or machine was lost; at the next loss it is broken."""


class Launcher(Protocol):
    """Where cells are run.

    Attributes:
        busy_seconds: how long to wait before another try at a cell that another study runs.
    """

    busy_seconds: float

    def has_room(self) -> bool:
        """Whether a further cell may be started."""

    def start(self, cell: Cell) -> None:
        """Begin to run a cell."""

    def wait(self, seconds: float) -> list[Ended]:
        """The cells that have ended; waits for one, about so many seconds."""

    def close(self) -> None:
        """Stop the running cells so that they can resume later."""


@dataclass
class Summary:
    """How a study ended.

    Attributes:
        cells: number of requested cells; all fields below are about these.
        finished, before: number of finished cells, and how many of them finished before this call.
        diverged: finished cells whose loss was not finite.
        broken: cell → the text of its error.
        blocked: cell → the broken or diverged cell it starts from.
    """

    cells: int = 0
    finished: int = 0
    before: int = 0
    diverged: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)


def run_cells(grid: Grid, launcher: Launcher, *, cells: Sequence[Cell] | None = None, progress: bool = True) -> Summary:
    """Run every cell that is not finished, and write `results.csv` of the whole grid.

    Cells that broke in an earlier call are tried again once; the others run without them.

    Args:
        cells: the cells to run, including the unfinished cells they start from. Default: the whole grid.
        grid: the study's cells.
        launcher: starts cells and waits for them.
        progress: whether to show a bar on standard error.
    """
    write_study_files(grid)
    scheduler = _Scheduler(grid, launcher, grid.cells if cells is None else cells)
    try:
        settings = {**bar_settings(), "mininterval": ON_SCREEN, "delay": 0}  # cells take long: a line for each
        with tqdm(total=len(scheduler.cells), unit="cell", disable=not progress, **settings) as bar:
            scheduler.run(lambda: _show(bar, scheduler))
    finally:
        launcher.close()
        write_results(grid)
    return scheduler.summary()


def _show(bar: tqdm, scheduler: _Scheduler) -> None:
    """Update the bar; in a file, unlike on a screen, only after a change."""
    done = len(scheduler.finished) - bar.n
    if done == 0 and not sys.stderr.isatty():
        return
    words = [f"{len(scheduler.running)} running"]
    if scheduler.broken:
        words.append(f"{len(scheduler.broken)} broken")
    bar.set_postfix_str(", ".join(words), refresh=False)
    bar.update(done)


class _Scheduler:
    """Chooses the next cells to run, and records how they end."""

    def __init__(self, grid: Grid, launcher: Launcher, cells: Sequence[Cell]) -> None:
        self.grid, self.launcher, self.cells = grid, launcher, list(cells)
        self.old_errors = {cell.name: error_stamp(cell) for cell in self.cells}
        found = outcomes(self.cells)
        self.finished = set(found)
        for cell in self.cells:
            if cell.name in found and cell.keep == "results":  # a killed call may not have removed them
                remove_weights(cell.run_folder)
        self.diverged = {name for name, outcome in found.items() if outcome["outcome"] == "diverged"}
        self.before = len(self.finished)
        needs = {need for cell in self.cells for need in cell.needs} - {cell.name for cell in self.cells}
        elsewhere = outcomes(cell for cell in grid.cells if cell.name in needs)
        self.finished_elsewhere = set(elsewhere)
        self.diverged |= {name for name, outcome in elsewhere.items() if outcome["outcome"] == "diverged"}
        self.running: set[str] = set()
        self.broken: dict[str, str] = {}
        self.blocked: dict[str, str] = {}
        self.not_before: dict[str, float] = {}
        self.losses: Counter[str] = Counter()

    def run(self, show: Callable[[], None]) -> None:
        """Run until every cell is finished, broken or blocked."""
        while open_cells := self._open_cells():
            for cell in open_cells:
                if self.launcher.has_room() and self._is_ready(cell):
                    self.running.add(cell.name)
                    self.launcher.start(cell)
            show()
            for ended in self.launcher.wait(WAIT_SECONDS):
                self._take(ended)
        show()

    def _open_cells(self) -> list[Cell]:
        """Cells that are not finished, broken or blocked; those of earlier stages first."""
        self._block()
        done = self.finished | self.broken.keys() | self.blocked.keys()
        return [cell for cell in self.cells if cell.name not in done]

    def _block(self) -> None:
        """Mark the cells that start from a broken, diverged or blocked cell as blocked."""
        for cell in self.cells:
            failed = [name for name in cell.needs if name in self.broken.keys() | self.blocked.keys() | self.diverged]
            if failed and cell.name not in self.blocked and cell.name not in self.finished:
                self.blocked[cell.name] = self.blocked.get(failed[0], failed[0])

    def _is_ready(self, cell: Cell) -> bool:
        """Whether it can be started now; reads the disk, since another study may have finished it."""
        if cell.name in self.running or not (self.finished | self.finished_elsewhere).issuperset(cell.needs):
            return False
        if time.monotonic() < self.not_before.get(cell.name, 0.0):
            return False
        return not self._ended_elsewhere(cell)

    def _ended_elsewhere(self, cell: Cell) -> bool:
        if self._note_outcome(cell):
            return True
        if error_stamp(cell) not in (None, self.old_errors[cell.name]):
            self.broken[cell.name] = read_error(cell) or "unknown"
        return cell.name in self.broken

    def _note_outcome(self, cell: Cell) -> bool:
        """Whether the cell is finished, by its files on disk."""
        outcome = read_outcome(cell)
        if outcome is None:
            return False
        self.finished.add(cell.name)
        if outcome["outcome"] == "diverged":
            self.diverged.add(cell.name)
        return True

    def _take(self, ended: Ended) -> None:
        """Record how a cell ended; a lost one is run again, from its newest checkpoint."""
        cell, status, why = ended
        self.running.discard(cell.name)
        if status == "finished" and not self._note_outcome(cell):  # on a machine with other files, or ones seen late
            status, why = "lost", f"it finished, but its outcome is not in {cell.folder}: do all machines share that?"
        if status == "busy":
            self.not_before[cell.name] = time.monotonic() + self.launcher.busy_seconds
        elif status == "finished":
            write_results(self.grid)
        elif status == "lost" and self.losses[cell.name] < MAX_LOSSES:
            self.losses[cell.name] += 1
            note(cell, "lost")
            logger.warning("%s is run again: %s", cell.name, why)
        else:
            if why:
                write_error(cell, why)
            self.broken[cell.name] = read_error(cell) or "no error was recorded"
            logger.error("%s is broken: %s", cell.name, last_line(self.broken[cell.name]))

    def summary(self) -> Summary:
        found = outcomes(self.cells)
        return Summary(
            cells=len(self.cells),
            finished=len(found),
            before=self.before,
            diverged=[name for name, outcome in found.items() if outcome["outcome"] == "diverged"],
            broken=self.broken,
            blocked=self.blocked,
        )


def last_line(text: str) -> str:
    """The last line of an error."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


def result_lines(cells: Sequence[Cell]) -> list[Line]:
    """The lines of results.csv of all finished cells, in the order of the grid."""
    found = outcomes(cells)
    lines: list[Line] = []
    for cell in cells:
        if cell.name in found:
            run = cell.run_folder.relative_to(cell.folder.parent.parent.parent).as_posix()
            lost = tuple(measured_by(cell)) if found[cell.name]["outcome"] == "diverged" else ()
            lines += lines_of(cell.stage, cell.axes, found[cell.name], run=run, lost=lost)
    return lines


def write_results(grid: Grid) -> None:
    """Write `results.csv` of all finished cells.

    Reading and writing are under one lock, so that of two running studies neither overwrites the file with one that
    lacks the other's last cell.
    """
    with writing_results(grid.folder):
        write_text(grid.folder / "results.csv", to_csv(result_lines(grid.cells), grid.axes))
