"""`mtdnn study | subset | report`: what the command line calls for grids of runs.

The functions return what is to be printed; `cli.py` lists them beside its own.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

from mtdnn.columns import table
from mtdnn.errors import ConfigError, Fault, MtdnnError, fault, unknown

if TYPE_CHECKING:
    from mtdnn.study.cells import Outcome
    from mtdnn.study.grid import Cell, Grid
    from mtdnn.study.scheduler import Launcher, Summary

logger = logging.getLogger(__name__)


def subset(rows: str, *, out: str, fraction: float | None = None, count: int | None = None, seed: int = 0) -> str:
    """Copy part of a file of rows, chosen by seed and row ids alone.

    Args:
        rows: Canonical rows: .tsv or .jsonl.
        out: The file to write; the ids go beside it, to a file ending in .ids.
        fraction: Of the rows, rounded down.
        count: Number of rows, in place of a fraction.
        seed: Of the choice.
    """
    from mtdnn.rows.subset import write_subset

    written = write_subset(Path(rows), Path(out), seed=seed, fraction=fraction, rows=count)
    return f"{written.size} of {written.num_rows} rows: {written.rows}\nids: {written.ids}"


def study(
    study: str,
    *,
    encoder: str | None = None,
    data: str | None = None,
    output: str | None = None,
    variables: dict[str, str] | None = None,
    stages: str | None = None,
    jobs: int = 1,
    launcher: Literal["local", "ray"] = "local",
    gpus: float = 0.0,
    dry_run: bool = False,
    rate: float | None = None,
) -> str:
    """Run a grid of runs; what is finished is never run again, so the same command goes on after a kill.

    Args:
        study: A study, a YAML file.
        encoder: Value of ${encoder} in it: a hub name or folder.
        data: Value of ${data} in it: the folder made by `mtdnn prepro`.
        output: Folder of the study. Default: the one in the YAML.
        variables: Further variables of the YAML, as --variables.name value.
        stages: Names of stages, separated by commas: only their cells. Default: all.
        jobs: Cells at a time.
        launcher: local = processes on this machine; ray = a Ray cluster, or a local Ray.
        gpus: GPUs of each cell, for ray.
        dry_run: Show the cells, their steps and an estimate of the time, and run nothing.
        rate: Training examples per second of a plain run, for that estimate. Default: that of the finished cells.
    """
    from mtdnn.study.checks import (
        require_known_splits,
        require_runnable,
        require_valid_objectives,
        require_valid_subsets,
    )
    from mtdnn.study.load import load_study

    given = {"encoder": encoder, "data": data, **(variables or {})}
    grid = load_study(study, output=output, variables={name: value for name, value in given.items() if value})
    require_known_splits(grid)
    cells = chosen_cells(grid, stages)
    require_valid_objectives(grid, cells)
    require_valid_subsets(grid, cells)
    for line in changed_rows_lines(cells):
        logger.warning("%s", line)
    if dry_run:
        return plan_of(cells, rate=rate)
    from mtdnn.study.scheduler import run_study

    require_runnable(cells)
    with stopped_by_sigterm():
        summary = run_study(grid, _launcher(launcher, jobs=jobs, gpus=gpus), cells=cells)
    if summary.broken:
        raise MtdnnError([*broken_lines(summary), summary_text(grid, summary)])
    return summary_text(grid, summary)


def chosen_cells(grid: Grid, words: str | None) -> list[Cell]:
    """The cells of the stages named in `multi_task,fine_tune`, or all.

    Raises:
        ConfigError: a name is not among them, or a stage needs one that is left out and not finished.
    """
    from mtdnn.study.cells import outcomes

    if words is None:
        return grid.cells
    names, known = words.split(","), grid.study.stages
    faults = [fault("--stages", "", unknown("stage", name, known)) for name in names if name not in known]
    cells = [cell for cell in grid.cells if cell.stage in names]
    needs = {need for cell in cells for need in cell.needs}
    needed = [cell for cell in grid.cells if cell.name in needs and cell.stage not in names]
    found = outcomes(needed)
    left_out = dict.fromkeys(cell.stage for cell in needed if cell.name not in found)
    faults += [
        fault(
            "--stages", "", f"'{name}' is left out, and others start from runs of it that are not finished", "Add it."
        )
        for name in left_out
    ]
    if faults:
        raise ConfigError(faults)
    return cells


def report(folder: str, *, annotators: str | None = None, worst: int = 10) -> str:
    """Write report.md and a self-contained report.html of a run or a study.

    Args:
        folder: Folder of the run or of the study.
        annotators: Labels of several annotators, `id<TAB>labels joined by commas`: adds results by their agreement.
        worst: Rows shown with their texts among the worst errors.
    """
    from mtdnn.report.write import write_report

    written = write_report(Path(folder), annotators=Path(annotators) if annotators else None, worst=worst)
    return "\n".join(str(path) for path in written)


def train_cell(cell: Cell) -> Outcome:
    """Carry out the run of a cell, from its newest checkpoint if it was begun before, and measure it."""
    from mtdnn.runs.folder import RunFolder
    from mtdnn.runs.opened import open_run
    from mtdnn.runs.train import train
    from mtdnn.study.cells import Diverged
    from mtdnn.study.checks import require_prepared, stored_rows
    from mtdnn.study.size import cell_size
    from mtdnn.training.meter import NonFiniteLoss
    from mtdnn.training.signals import Interrupted

    size, rows = cell_size(cell), stored_rows(cell)
    require_prepared(cell)
    try:
        train(cell.config, resume=True, progress=False)
    except NonFiniteLoss as error:
        raise Diverged(str(error)) from error
    except Interrupted as error:  # not an Exception: the cell is neither finished nor broken
        raise SystemExit(128 + error.signal_number) from error
    for split in cell.evaluate:
        open_run(cell.run_folder).evaluate(None, split=split)
    results = RunFolder(cell.run_folder).read_results()
    told = {"rows": dict(size.rows), "stored_rows": rows, "steps": size.steps, "examples": size.examples}
    return {"results": results, **told}


def _launcher(name: str, *, jobs: int, gpus: float) -> Launcher:
    from mtdnn.study.launchers import Processes, Ray

    if name == "ray":
        return Ray(train_cell, jobs=jobs if jobs > 1 else None, gpus=gpus)
    if gpus:
        raise ConfigError(fault("--gpus", "", "is for --launcher ray", "A local study uses the GPUs it sees."))
    return Processes(train_cell, jobs=jobs)


def changed_rows_lines(cells: Sequence[Cell]) -> list[Fault]:
    """Which finished cells were run on other rows than those prepared now, one line for each set of splits."""
    from mtdnn.study.checks import of_other_rows

    groups: dict[tuple[str, ...], list[Cell]] = {}
    by_name = {cell.name: cell for cell in cells}
    for name, changed in of_other_rows(cells).items():
        groups.setdefault(tuple(changed), []).append(by_name[name])
    fix = "They are not run again: remove the folders of these cells for that, or put the rows under another path."
    lines = []
    for places, group in groups.items():
        found = f"the rows have changed since these cells were finished: {', '.join(cell.name for cell in group)}"
        lines.append(fault(group[0].config.data, ", ".join(places), found, fix))
    return lines


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C would, so that runs leave a checkpoint."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def plan_of(cells: Sequence[Cell], *, rate: float | None = None) -> str:
    """Cells of a study with their steps, and how long those not finished will take."""
    from mtdnn.study.cells import outcomes
    from mtdnn.study.checks import require_prepared
    from mtdnn.study.size import cell_size, estimated_seconds

    sizes = {cell.name: cell_size(cell) for cell in cells}
    found = outcomes(cells)
    lines = [["cell", "rows", "steps", "examples", "state"]]
    for cell in cells:
        size = sizes[cell.name]
        state = found[cell.name]["outcome"] if cell.name in found else "to run"
        lines.append([cell.name, str(sum(size.rows.values())), str(size.steps), str(size.examples), state])
    left = [cell for cell in cells if cell.name not in found]
    for cell in left:
        require_prepared(cell)
    seconds = estimated_seconds(left, sizes, found, rate=rate)
    text = f"{len(cells)} cells, {len(left)} to run, {sum(sizes[cell.name].examples for cell in left)} examples"
    if seconds is not None:
        time = f"about {duration(seconds)}"
    elif any(sizes[cell.name].units is None for cell in left):
        time = "unknown, as a regularizer does not tell its cost"
    else:
        time = "unknown until a cell is finished, or with --rate"
    return f"{table(lines, right=True)}\n\n{text}; time of one process after another: {time}"


def duration(seconds: float) -> str:
    """`3 h 20 min`, `12 min`, `40 s`."""
    if seconds < 90:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def summary_text(grid: Grid, summary: Summary) -> str:
    """How a study ended, in a line or two."""
    parts = [f"{summary.finished} of {summary.cells} cells finished"]
    if summary.before:
        parts.append(f"{summary.before} of them before")
    parts += [
        f"{len(cells)} {word}"
        for word, cells in (
            ("diverged", summary.diverged),
            ("broken", summary.broken),
            ("not run, as they start from a broken or diverged one", summary.blocked),
        )
        if cells
    ]
    return f"{', '.join(parts)}\nresults: {grid.folder / 'results.csv'}"


def broken_lines(summary: Summary) -> list[str]:
    """Why each broken cell broke, one line each."""
    from mtdnn.study.scheduler import last_line

    return [f"{name}: {last_line(why)}" for name, why in summary.broken.items()]
