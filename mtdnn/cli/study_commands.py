"""The commands `mtdnn study | subset | report`.

The functions return the text to print; `main.py` lists them together with the other commands.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from mtdnn.cli.flags import keys_as_flags, some_names_in
from mtdnn.cli.output import as_json
from mtdnn.cli.verbosity import shows_progress
from mtdnn.columns import table
from mtdnn.errors import ConfigError, Fault, MtdnnError, fault
from mtdnn.study.slurm_options import SlurmOptions

NO_OPTIONS = SlurmOptions()

if TYPE_CHECKING:
    from mtdnn.study.grid import Cell, Grid
    from mtdnn.study.scheduler import Summary


def subset(rows: str, *, out: str, fraction: float | None = None, count: int | None = None, seed: int = 0) -> str:
    """Copy part of a file of rows, chosen by seed and row ids.

    Args:
        rows: Canonical rows: .tsv or .jsonl.
        out: The file to write; the ids are written to a file next to it, ending in .ids.
        fraction: Fraction of the rows, rounded down.
        count: Number of rows, in place of a fraction.
        seed: Seed of the choice.
    """
    from mtdnn.rows.subset import write_subset

    with keys_as_flags(rows="count"):
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
    launcher: Literal["local", "ray", "slurm"] = "local",
    gpus: float = 0.0,
    slurm: SlurmOptions = NO_OPTIONS,
    dry_run: bool = False,
    rate: float | None = None,
    json: bool = False,
) -> str:
    """Run a grid of runs; finished runs are never repeated, so the same command resumes after a kill.

    Args:
        study: A study, a YAML file.
        encoder: Value of ${encoder} in it: a hub name or folder.
        data: Value of ${data} in it: the folder made by `mtdnn prepro`.
        output: Folder of the study. Default: the one in the YAML.
        variables: Further variables of the YAML, as --variables.name value.
        stages: Names of stages, separated by commas: only their cells. Default: all.
        jobs: Cells at a time. Default: one, or as many as the cluster starts, for ray and slurm.
        launcher: local = processes on this machine; ray = a Ray cluster, or a local Ray; slurm = a SLURM cluster.
        gpus: GPUs of each cell, for ray and slurm; at most 1.
        slurm: What each job asks SLURM for.
        dry_run: Show the cells, their steps and an estimate of the time, and run nothing.
        rate: Training examples per second of a plain run, for that estimate. Default: that of the finished cells.
        json: Print the numbers of cells and the file of results as JSON.
    """
    from mtdnn.study.launchers import require_launchable
    from mtdnn.study.load import load_study
    from mtdnn.study.run import checked_cells, run_study
    from mtdnn.study.variables import as_in_yaml

    with keys_as_flags(**{f"slurm.{name}": f"slurm.{name}" for name in vars(slurm)}):
        slurm = SlurmOptions.of(slurm)
    given: dict[str, Any] = {"encoder": encoder, "data": data}
    given |= {name: as_in_yaml(text) for name, text in (variables or {}).items()}
    grid = load_study(
        study, output=output, variables={name: value for name, value in given.items() if value not in (None, "")}
    )
    names = some_names_in(stages, flag="--stages", kind="stage", fix=f"Known: {', '.join(grid.study.stages)}.")
    _require_together(dry_run=dry_run, json=json, rate=rate)
    if dry_run:
        require_launchable(launcher, jobs=jobs, gpus=gpus, slurm=slurm)
        return plan_of(checked_cells(grid, names), rate=rate)
    with stopped_by_sigterm():
        ways: dict[str, Any] = {"launcher": launcher, "jobs": jobs, "gpus": gpus, "slurm": slurm}
        summary = run_study(grid, stages=names, progress=shows_progress(), **ways)
    if summary.broken:
        raise MtdnnError([*broken_lines(summary), summary_text(grid, summary)])
    return as_json(summary_values(grid, summary)) if json else summary_text(grid, summary)


def _require_together(*, dry_run: bool, json: bool, rate: float | None) -> None:
    """Raise ConfigError for flags of `study` that have no effect together."""
    if dry_run and json:
        raise ConfigError(fault("--json", "", "is for results, and --dry_run has none", "Leave out one of them."))
    if rate is not None and not (dry_run and rate > 0):
        found = f"{rate:g} examples per second" if dry_run else "is for the estimate of --dry_run"
        fix = "Give a number above 0." if dry_run else "Add --dry_run, or leave it out."
        raise ConfigError(fault("--rate", "", found, fix))


def tune(
    run: str,
    *,
    space: str,
    out: str,
    trials: int = 20,
    jobs: int = 1,
    launcher: str = "local",
    gpus: float = 0.0,
    seed: int = 1,
    prune: bool = True,
    json: bool = False,
) -> str:
    """Search good settings of a run on its dev splits; the same command continues a search that was stopped.

    Args:
        run: A run's YAML file; what is not searched stays.
        space: A YAML file: dotted keys of the run, each with a list of values or {low, high, log, step}.
        out: Folder of the search: its study, its trials, and the best run as best.yml.
        trials: Trials after which the search ends, those of earlier commands included.
        jobs: Processes, each with one trial at a time.
        launcher: local = processes of this machine; ray = a Ray cluster, or a local Ray.
        gpus: GPUs of each process, for ray; at most 1.
        seed: Seed of the draws.
        prune: Stop trials that are worse than the median of the others at the same evaluation.
        json: Print the best values, their score and the number of trials as JSON.
    """
    from mtdnn.study.space import read_space
    from mtdnn.study.tuning import BEST, Search, require_optuna
    from mtdnn.study.tuning import tune as tune_run

    require_optuna()
    search = Search(run, read_space(space, run), Path(out), trials=trials, seed=seed, prune=prune)
    with stopped_by_sigterm():
        found = tune_run(search, jobs=jobs, launcher=launcher, gpus=gpus)
    if json:
        return as_json(vars(found))
    lines = table([[key, str(value)] for key, value in found.values.items()])
    counts = f"{found.finished} trials finished, {found.pruned} pruned"
    return f"{lines}\n\ndev score {found.score:.4f} (trial {found.trial}); {counts}\nbest run: {Path(out) / BEST}"


def report(
    folders: list[str],
    *,
    annotators: str | None = None,
    worst: int = 10,
    alone: str | None = None,
    together: str | None = None,
) -> str:
    """Write report.md and a self-contained report.html of a run or a study.

    Args:
        folders: Folder of the run or of the study; for several, such as runs/*, each gets a report of its own.
        annotators: Labels of several annotators, `id<TAB>labels joined by commas`: adds results by their agreement.
        worst: Rows shown with their texts among the worst errors.
        alone: Runs of one task each, comma-separated: adds a table of each task alone, with others, the difference.
        together: Runs like this one with other seeds, comma-separated, for that table.
    """
    from mtdnn.report.write import write_report

    if worst < 0:
        raise ConfigError(fault("--worst", "", f"{worst} rows", "Give 0 or more."))
    if len(folders) > 1 and (alone or together):
        found = f"compares one run with others, and {len(folders)} are given"
        raise ConfigError(fault("--alone" if alone else "--together", "", found, "Give the folder of one run."))
    fix = "Give folders of runs, or leave it out."
    runs_alone = some_names_in(alone, flag="--alone", kind="run", fix=fix) or ()
    runs_together = some_names_in(together, flag="--together", kind="run", fix=fix) or ()
    written: list[Path] = []
    faults: list[Fault] = []
    for folder in dict.fromkeys(folders):
        try:
            written += write_report(
                folder,
                annotators=annotators,
                worst=worst,
                alone=runs_alone,
                together=runs_together,
            )
        except MtdnnError as error:
            faults += error.faults
    if faults:
        raise MtdnnError([*faults, *(f"{path}: written" for path in written)])
    return "\n".join(map(str, written))


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """A context in which SIGTERM acts like Ctrl-C, so that runs write a checkpoint."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def plan_of(cells: Sequence[Cell], *, rate: float | None = None) -> str:
    """The cells of a study with their steps, and an estimate of the time for those not finished."""
    from mtdnn.study.cells import outcomes
    from mtdnn.study.checks import not_runnable
    from mtdnn.study.size import cell_size, estimated_seconds, finished_size

    found = outcomes(cells)
    sizes = {
        cell.name: finished_size(cell, found[cell.name]) if cell.name in found else cell_size(cell) for cell in cells
    }
    lines = [["cell", "rows", "steps", "examples", "state"]]
    for cell in cells:
        size = sizes[cell.name]
        state = found[cell.name]["outcome"] if cell.name in found else "to run"
        lines.append([cell.name, str(sum(size.rows.values())), str(size.steps), str(size.examples), state])
    left = [cell for cell in cells if cell.name not in found]
    if lacking := not_runnable(left):
        raise MtdnnError(list(dict.fromkeys(each for faults in lacking.values() for each in faults)))
    seconds = estimated_seconds(left, sizes, found, rate=rate)
    text = f"{len(cells)} cells, {len(left)} to run, {sum(sizes[cell.name].examples for cell in left)} examples"
    if seconds is not None:
        time = f"about {duration(seconds)}"
    elif any(sizes[cell.name].units is None for cell in left):
        time = "unknown, as a regularizer does not declare its cost"
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
    """The result of a study in one or two lines."""
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


def summary_values(grid: Grid, summary: Summary) -> dict[str, object]:
    """The result of a study as plain values: how many cells, names of those without results, the file of results."""
    return {
        "cells": summary.cells,
        "finished": summary.finished,
        "before": summary.before,
        "diverged": [*summary.diverged],
        "blocked": [*summary.blocked],
        "results": str(grid.folder / "results.csv"),
    }


def broken_lines(summary: Summary) -> list[str]:
    """Why each broken cell failed, one line each."""
    from mtdnn.study.scheduler import last_line

    return [f"{name}: {last_line(why)}" for name, why in summary.broken.items()]
