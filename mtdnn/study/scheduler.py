"""A grid of runs → results.csv: every cell once, whatever is killed, on as many processes as wanted.

Several studies may work on one folder at the same time, on one machine or on several that share a file system: what is
finished is on disk, and who works on what is settled by locks.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tqdm import tqdm

from mtdnn.files import write_text
from mtdnn.study.cells import Status, error_stamp, outcomes, read_error, read_outcome, remove_weights, writing_results
from mtdnn.study.grid import Cell, Grid, write_study_files
from mtdnn.study.size import measured_tasks
from mtdnn.study.table import Line, lines_of, to_csv

logger = logging.getLogger(__name__)

BUSY_SECONDS = 1.0
"""How long to wait before asking again for a cell that another study works on."""


class Launcher(Protocol):
    """Where cells are run."""

    def has_room(self) -> bool:
        """Whether a further cell may be started."""

    def start(self, cell: Cell) -> None:
        """Begin to run a cell."""

    def wait(self, seconds: float) -> list[tuple[Cell, Status]]:
        """Cells that have ended, once there is one, or none after so many seconds."""

    def close(self) -> None:
        """Stop what still runs, leaving it so that it can go on later."""


@dataclass
class Summary:
    """How a study ended.

    Attributes:
        cells: cells asked for; all below are of them.
        finished, before: cells finished by now, and how many of them before this call.
        diverged: finished cells whose loss left the numbers.
        broken: cell → why, its first line the last one of the error.
        blocked: cell → the broken or diverged cell it would start from.
    """

    cells: int = 0
    finished: int = 0
    before: int = 0
    diverged: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)


def run_cells(grid: Grid, launcher: Launcher, *, cells: Sequence[Cell] | None = None, progress: bool = True) -> Summary:
    """Run every cell that is not finished, and write `results.csv`, which tells of the whole grid.

    Cells that broke in an earlier call are tried again, once; the others go on without them.

    Args:
        cells: those to run, and with them all that they start from and is not finished. Default: the whole grid.
        grid: the study's cells.
        launcher: starts cells and waits for them.
        progress: whether to show a bar on standard error.
    """
    write_study_files(grid)
    scheduler = _Scheduler(grid, launcher, grid.cells if cells is None else cells)
    try:
        with tqdm(total=len(scheduler.cells), unit="cell", disable=not progress, dynamic_ncols=True) as bar:
            scheduler.run(lambda: _show(bar, scheduler))
    finally:
        launcher.close()
        write_results(grid)
    return scheduler.summary()


def _show(bar: tqdm, scheduler: _Scheduler) -> None:
    """Bring the bar up to date; in a file, unlike on a screen, only when there is news."""
    done = len(scheduler.finished) - bar.n
    if done == 0 and not sys.stderr.isatty():
        return
    words = [f"{len(scheduler.running)} running"]
    if scheduler.broken:
        words.append(f"{len(scheduler.broken)} broken")
    bar.set_postfix_str(", ".join(words), refresh=False)
    bar.update(done)


class _Scheduler:
    """Which cell comes next."""

    def __init__(self, grid: Grid, launcher: Launcher, cells: Sequence[Cell]) -> None:
        self.grid, self.launcher, self.cells = grid, launcher, list(cells)
        self.old_errors = {cell.name: error_stamp(cell) for cell in self.cells}
        found = outcomes(self.cells)
        self.finished = set(found)
        for cell in self.cells:
            if cell.name in found and cell.keep == "results":  # a kill may have come before, or while, they went
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

    def run(self, show: Callable[[], None]) -> None:
        """Until every cell is finished, broken or blocked."""
        while open_cells := self._open_cells():
            for cell in open_cells:
                if self.launcher.has_room() and self._is_ready(cell):
                    self.running.add(cell.name)
                    self.launcher.start(cell)
            show()
            for cell, status in self.launcher.wait(BUSY_SECONDS):
                self._take(cell, status)
        show()

    def _open_cells(self) -> list[Cell]:
        """Cells still to be seen to, those of an earlier stage first."""
        self._block()
        done = self.finished | self.broken.keys() | self.blocked.keys()
        return [cell for cell in self.cells if cell.name not in done]

    def _block(self) -> None:
        """Set aside the cells that start from a broken, diverged or blocked one."""
        for cell in self.cells:
            stuck = [name for name in cell.needs if name in self.broken.keys() | self.blocked.keys() | self.diverged]
            if stuck and cell.name not in self.blocked and cell.name not in self.finished:
                self.blocked[cell.name] = self.blocked.get(stuck[0], stuck[0])

    def _is_ready(self, cell: Cell) -> bool:
        """Whether it can be started now; looks at the disk, as another study may have ended it."""
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
        """Whether the cell is finished, by what lies on disk."""
        outcome = read_outcome(cell)
        if outcome is None:
            return False
        self.finished.add(cell.name)
        if outcome["outcome"] == "diverged":
            self.diverged.add(cell.name)
        return True

    def _take(self, cell: Cell, status: Status) -> None:
        """Note how a cell ended."""
        self.running.discard(cell.name)
        if status == "busy":
            self.not_before[cell.name] = time.monotonic() + BUSY_SECONDS
        elif status == "finished":
            self._note_outcome(cell)
            write_results(self.grid)
        else:
            self.broken[cell.name] = read_error(cell) or "it left no error"
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
    """What an error says in short."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


def result_lines(cells: Sequence[Cell]) -> list[Line]:
    """The lines of results.csv of all finished cells, in the order of the grid."""
    found = outcomes(cells)
    lines: list[Line] = []
    for cell in cells:
        if cell.name in found:
            run = cell.run_folder.relative_to(cell.folder.parent.parent.parent).as_posix()
            lost = tuple(measured_tasks(cell)) if found[cell.name]["outcome"] == "diverged" else ()
            lines += lines_of(cell.stage, cell.axes, found[cell.name], run=run, lost=lost)
    return lines


def write_results(grid: Grid) -> None:
    """Write `results.csv` of what is finished, by whatever call.

    Looking and writing go together under a lock, so that of two studies at work on other cells none puts back a file
    from before the other's last cell.
    """
    with writing_results(grid.folder):
        write_text(grid.folder / "results.csv", to_csv(result_lines(grid.cells), grid.axes))
