"""A study, as a file or a grid → its finished cells and results.csv; `mtdnn study` calls it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mtdnn.config.arguments import keywords_checked
from mtdnn.errors import ConfigError, Fault, fault, unknown
from mtdnn.registry import trusting
from mtdnn.study.cells import Diverged, Outcome, outcomes
from mtdnn.study.checks import (
    of_other_rows,
    require_known_splits,
    require_planned_tasks,
    require_prepared,
    require_runnable,
    require_valid_lengths,
    require_valid_plug_ins,
    stored_rows,
)
from mtdnn.study.grid import Cell, Grid
from mtdnn.study.launchers import end_where_imported, require_launchable
from mtdnn.study.load import load_study
from mtdnn.study.scheduler import Launcher, Summary, run_cells
from mtdnn.study.size import cell_size
from mtdnn.study.slurm import Slurm
from mtdnn.study.slurm_options import SlurmOptions

logger = logging.getLogger(__name__)


@keywords_checked()
@trusting
def run_study(
    study: str | Path | Grid,
    *,
    output: str | Path | None = None,
    variables: Mapping[str, Any] | None = None,
    stages: Sequence[str] | None = None,
    jobs: int = 1,
    launcher: Literal["here", "local", "ray", "slurm"] = "local",
    gpus: float = 0.0,
    slurm: SlurmOptions | Mapping[str, Any] | None = None,
    progress: bool = True,
    trust: bool = False,
) -> Summary:
    """Run every cell of a study that is not finished; the same call resumes a killed study.

    Args:
        study: a study's YAML, or the grid that `load_study` made of one.
        output: folder of the study, in place of the file's; not with a grid.
        variables: values of the file's variables by name, as in `${data}`; not with a grid.
        stages: names of the stages to run; None = all.
        jobs: cells at a time; 1 leaves their number to the cluster, for ray and slurm.
        launcher: here = one after another in this process, as in a notebook; local = processes on this machine, which
            import the calling script (so it calls this under `if __name__ == "__main__":`); ray = a Ray cluster, or a
            local Ray; slurm = jobs of a SLURM cluster.
        gpus: GPUs of each cell, for ray and slurm; at most 1.
        slurm: options of the jobs, such as `{"partition": "gpu", "time": 240}`; see `mtdnn study --help`.
        progress: show a bar on standard error.
        trust: the files may name code by dotted paths, which is imported.
    Returns:
        The number of finished cells, and which diverged or broke; `results.csv` is in the study's folder.
    Raises:
        ConfigError: every error in the file, or in what its cells name; a script that does not guard the call.
        DataError: no cell can run, since rows are not prepared or the encoder does not exist.

    Example:
        >>> import mtdnn
        >>> summary = mtdnn.run_study("study.yml", launcher="here", progress=False)
        >>> (summary.finished, summary.cells, summary.broken)
        (2, 2, {})
    """
    end_where_imported()
    options = SlurmOptions.of(slurm)
    require_launchable(launcher, jobs=jobs, gpus=gpus, slurm=options)
    if isinstance(study, Grid):
        given = [name for name, value in (("output", output), ("variables", variables)) if value is not None]
        if given:
            raise ConfigError(
                [fault("run_study()", name, "is part of the grid", "Give it to load_study.") for name in given]
            )
        grid = study
    else:
        grid = load_study(study, output=output, variables=variables)
    cells = checked_cells(grid, stages)
    require_runnable(cells)
    chosen = _launcher(launcher, jobs=jobs, gpus=gpus, slurm=options, folder=grid.folder)
    return run_cells(grid, chosen, cells=cells, progress=progress)


def checked_cells(grid: Grid, stages: Sequence[str] | None = None) -> list[Cell]:
    """The cells of the named stages, or all, after checks; finished cells with other rows are logged.

    Raises:
        ConfigError: see `chosen_cells`; or an invalid split, task, size, plug-in or option.
    """
    require_known_splits(grid)
    cells = chosen_cells(grid, stages)
    require_valid_plug_ins(grid, cells)
    require_valid_lengths(grid, cells)
    for line in changed_rows_lines(cells):
        logger.warning("%s", line)
    return cells


def chosen_cells(grid: Grid, stages: Sequence[str] | None) -> list[Cell]:
    """The cells of the named stages, or all.

    Raises:
        ConfigError: a name is unknown, or a stage starts from runs of one that is left out and not finished.
    """
    if stages is None:
        return grid.cells
    known = grid.study.stages
    faults = [fault("", "stages", unknown("stage", name, known)) for name in stages if name not in known]
    cells = [cell for cell in grid.cells if cell.stage in stages]
    needs = {need for cell in cells for need in cell.needs}
    needed = [cell for cell in grid.cells if cell.name in needs and cell.stage not in stages]
    found = outcomes(needed)
    for name in dict.fromkeys(cell.stage for cell in needed if cell.name not in found):
        found_open = f"'{name}' is left out, but other stages start from its runs that are not finished"
        faults.append(fault("", "stages", found_open, "Add it."))
    if faults:
        raise ConfigError(faults)
    return cells


def train_cell(cell: Cell) -> Outcome:
    """Train the run of a cell, from its newest checkpoint if there is one, and measure it."""
    from mtdnn.runs.folder import RunFolder
    from mtdnn.runs.opened import open_run
    from mtdnn.runs.train import train
    from mtdnn.training.meter import NonFiniteLoss
    from mtdnn.training.signals import Interrupted

    require_planned_tasks(cell)
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
    facts = {"rows": dict(size.rows), "stored_rows": rows, "steps": size.steps, "examples": size.examples}
    return {"results": results, **facts}


def _launcher(name: str, *, jobs: int, gpus: float, slurm: SlurmOptions, folder: Path) -> Launcher:
    from mtdnn.study.launchers import Here, Processes, Ray

    limit = jobs if jobs > 1 else None
    if name == "ray":
        return Ray(train_cell, jobs=limit, gpus=gpus)
    if name == "slurm":
        return Slurm(train_cell, folder=folder, jobs=limit, gpus=int(gpus), options=slurm)
    return Here(train_cell) if name == "here" else Processes(train_cell, jobs=jobs)


def changed_rows_lines(cells: Sequence[Cell]) -> list[Fault]:
    """Warnings about finished cells that were run on other rows than those prepared now, one per set of splits."""
    groups: dict[tuple[str, ...], list[Cell]] = {}
    by_name = {cell.name: cell for cell in cells}
    for name, changed in of_other_rows(cells).items():
        groups.setdefault(tuple(changed), []).append(by_name[name])
    fix = "They are not run again. To run them again, remove the folders of these cells, or give the rows another path."
    lines = []
    for places, group in groups.items():
        found = f"the rows have changed since these cells were finished: {', '.join(cell.name for cell in group)}"
        lines.append(fault(group[0].config.data, ", ".join(places), found, fix))
    return lines
