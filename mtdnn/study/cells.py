"""The state of each cell in a study's folder: finished, broken, or running somewhere.

`cells/<name>/` contains `run/` (the run's own folder), `outcome.json` (written last; a cell with a whole one of the
same fingerprint is finished), `error.txt` (why it broke), `attempts.jsonl` (every start, end and loss) and `lock`. The
process that runs the cell has the lock; the system releases it when that process ends in any way, so a killed study
leaves nothing to clean up.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired

from pydantic import ConfigDict
from typing_extensions import TypedDict

from mtdnn.config.json_source import read_json
from mtdnn.errors import DataError, MtdnnError
from mtdnn.files import exclusive, read_once, remove_folder, remove_leftovers, write_text
from mtdnn.runs.folder import ResultsFile, RunFolder
from mtdnn.study.grid import Cell

logger = logging.getLogger(__name__)

Status = Literal["finished", "broken", "busy", "lost"]
"""`busy`: another process runs the cell; `lost`: its process or machine ended before it did."""

Outcome = dict[str, Any]
"""`outcome` (finished or diverged), `results` (task → split → metric → value), `rows` (task → training rows),
`stored_rows` (task/split → SHA-256 of its rows; not of cells finished by earlier versions), `steps`, `examples`, `why`
(of a diverged cell); `fingerprint` and `seconds` are added here."""


class OutcomeFile(TypedDict):
    """The keys of outcome.json and their types."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    outcome: Literal["finished", "diverged"]
    results: ResultsFile
    fingerprint: str
    seconds: NotRequired[float]
    rows: NotRequired[dict[str, int]]
    stored_rows: NotRequired[dict[str, str]]


RunCell = Callable[[Cell], Outcome]


class Ended(NamedTuple):
    """A cell whose attempt has ended.

    Args:
        cell: the cell.
        status: how it ended.
        why: of a lost cell; also of a broken one that could not write it itself.
    """

    cell: Cell
    status: Status
    why: str = ""


class Diverged(Exception):
    """A run with a loss that is not finite; a further attempt would only repeat it."""


def read_outcome(cell: Cell) -> Outcome | None:
    """The outcome of a finished cell; None if it is not finished, or was run with other settings."""
    outcome = read_outcome_file(cell.folder / "outcome.json")
    return outcome if outcome is not None and outcome["fingerprint"] == cell.fingerprint else None


def read_outcome_file(path: Path) -> Outcome | None:
    """The content of an outcome.json; None if it is missing or damaged: such a cell is run again."""
    try:
        return _read(path)
    except OSError:  # there is none, or a folder above is a file
        return None


@read_once
def _read(path: Path) -> Outcome | None:
    try:
        return dict(read_json(path, OutcomeFile, fix=""))
    except DataError as error:
        if isinstance(error.__cause__, OSError):  # it is there, and cannot be read now: no open file is left, say
            raise
        logger.warning("%s; the cell is treated as not finished", error)
        return None


def read_error(cell: Cell) -> str | None:
    """Why the last attempt broke; None when it did not."""
    try:
        text = (cell.folder / "error.txt").read_text(encoding="utf-8")
    except OSError:
        return None
    return text.strip() or None


def error_stamp(cell: Cell) -> int | None:
    """When the last attempt broke, to distinguish an old error from a new one; None when it did not."""
    try:
        return (cell.folder / "error.txt").stat().st_mtime_ns
    except OSError:
        return None


@contextmanager
def locked(cell: Cell) -> Iterator[bool]:
    """Lock the cell for the block: yields True, or False when another process has the lock.

    Raises:
        DataError: the file system has no locks.
    """
    with exclusive(cell.folder / "lock", wait=False) as ours:
        if ours:
            remove_leftovers(cell.folder)
        yield ours


@contextmanager
def writing_results(folder: Path) -> Iterator[None]:
    """Lock the results of a study for the block; waits for the processes before it.

    Raises:
        DataError: the file system has no locks.
    """
    with exclusive(folder / ".results.lock", wait=True):
        remove_leftovers(folder)
        yield


def run_cell_once(cell: Cell, run_cell: RunCell) -> Status:
    """Run a cell unless it is finished or another process runs it; writes its outcome or its error to disk."""
    with locked(cell) as ours:
        if not ours:
            return "busy"
        if read_outcome(cell) is not None:  # finished since it was chosen
            return "finished"
        note(cell, "start")
        started = time.perf_counter()
        try:
            outcome = _outcome(cell, run_cell)
        except Exception as error:
            write_error(cell, error)
            note(cell, "broken")
            return "broken"
        outcome |= {"fingerprint": cell.fingerprint, "seconds": round(time.perf_counter() - started, 3)}
        write_text(cell.folder / "outcome.json", json.dumps(outcome, indent=1, ensure_ascii=False) + "\n")
        (cell.folder / "error.txt").unlink(missing_ok=True)
        note(cell, outcome["outcome"])
        if cell.keep == "results":
            remove_weights(cell.run_folder)
        return "finished"


def _outcome(cell: Cell, run_cell: RunCell) -> Outcome:
    try:
        return {"outcome": "finished", **run_cell(cell)}
    except Diverged as error:
        return {"outcome": "diverged", "results": {}, "why": str(error)}


def write_error(cell: Cell, error: BaseException | str) -> None:
    """Write why a cell broke: a user error as its message, any other error with a traceback."""
    text = "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else error
    write_text(cell.folder / "error.txt", f"{error}\n" if isinstance(error, MtdnnError) else f"{text.rstrip()}\n")


def note(cell: Cell, event: str) -> None:
    """Add a line to the cell's history, `attempts.jsonl`."""
    line = {"event": event, "host": socket.gethostname(), "pid": os.getpid(), "time": round(time.time(), 3)}
    with (cell.folder / "attempts.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def remove_weights(run: Path) -> None:
    """Remove every checkpoint of a finished run; results, predictions and logs stay."""
    folder = RunFolder(run)
    for path in (folder.checkpoints, folder.checkpoint("best"), folder.checkpoint("last")):
        remove_folder(path)
    remove_leftovers(run)


def outcomes(cells: Iterable[Cell]) -> Mapping[str, Outcome]:
    """Name → outcome of the cells that are finished, in their order."""
    found = ((cell.name, read_outcome(cell)) for cell in cells)
    return {name: outcome for name, outcome in found if outcome is not None}
