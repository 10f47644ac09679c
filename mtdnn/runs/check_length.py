"""The rows that `check` has read → the batches of each task and the steps of the run, by the sampler that trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mtdnn.config.run import RunConfig, no_run
from mtdnn.config.tasks import TaskDef, row_units
from mtdnn.data.samplers import Sampler
from mtdnn.data.sharing import reads_all_sequences
from mtdnn.errors import ConfigError, DataError, fault
from mtdnn.runs.check_report import Report, SplitFacts
from mtdnn.runs.length import (
    RunLength,
    prepared_sampler,
    rows_trained_on,
    run_sampler,
    subset_faults,
    training_rows,
)
from mtdnn.runs.named import trained_tasks


def add_length(tasks: Mapping[str, TaskDef], run: RunConfig | None, report: Report) -> None:
    """Add the batches of each task in the first epoch and the steps of the run, by the sampler that training uses.

    The rows that were read are counted or, if none were, the rows prepared for the run.

    Args:
        tasks: those whose blocks have no error.
        run: None = the defaults, and no steps are counted.
        report: has the statistics of the rows; the results are added to it.
    """
    config = run or no_run()
    trained = trained_tasks(config, report.tasks)
    splits = {name: _train_splits(task, report) for name, task in trained.items()}
    sampler = None
    try:
        if any(splits.values()):
            sampler = _sampler_of(trained, splits, config, report)
        elif run is not None and trained and trained.keys() <= tasks.keys():
            sampler = prepared_sampler(run, trained)
        if sampler is not None:
            report.batches = sampler.batches_per_task(0)
            report.length = None if run is None else RunLength.of(run, sampler)
    except ConfigError as error:
        report.faults += error.faults
    except DataError:  # nothing is prepared yet
        pass


def _train_splits(task: TaskDef, report: Report) -> list[SplitFacts]:
    """Statistics of a task's train splits, in training order; empty unless all were read."""
    facts = {each.split: each for each in report.splits if each.task is task}
    names = task.splits["train"]
    return [facts[name] for name in names] if all(name in facts for name in names) else []


def _sampler_of(
    trained: Mapping[str, TaskDef], splits: Mapping[str, list[SplitFacts]], config: RunConfig, report: Report
) -> Sampler | None:
    """The order of a run's batches on the rows that were read; None if a task's rows are not known.

    Raises:
        ConfigError: see `run_sampler`.
    """
    known = {name: found for name, found in splits.items() if found and all(each.whole for each in found)}
    whole = {unit: names for unit, names in row_units(trained).items() if all(name in known for name in names)}
    available = {unit: _num_rows([known[name] for name in names]) for unit, names in whole.items()}
    if faults := subset_faults(config, trained, available):
        raise ConfigError(faults)
    if len(known) < len(trained):
        return None
    if config.max_tokens is None:
        return run_sampler(config, trained, available)
    if report.lengths_in != "tokens":
        report.warnings.append(fault("", "max_tokens", "batches are counted only with a tokenizer", "Give --encoder."))
        return None
    lengths = {
        unit: _lengths_trained_on([trained[name] for name in names], [known[name] for name in names], config)
        for unit, names in whole.items()
    }
    return run_sampler(config, trained, available, lengths)


def _num_rows(tasks: Sequence[list[SplitFacts]]) -> int:
    """Number of train rows of a task, or of those of several that share rows; arguments as for `_labelled`."""
    labelled = _labelled(tasks)
    return sum(each.rows for each in tasks[0]) if labelled is None else int(labelled.sum())


def _labelled(tasks: Sequence[list[SplitFacts]]) -> np.ndarray | None:
    """[rows] bool: whether any of the tasks that share rows has a label for a row; None for a task with its own rows.

    Args:
        tasks: the statistics of the train splits of each task.
    """
    if tasks[0][0].task.rows is None:
        return None
    found: np.ndarray = np.logical_or.reduce([np.concatenate([each.labelled for each in own]) for own in tasks])
    return found


def _lengths_trained_on(tasks: Sequence[TaskDef], splits: Sequence[list[SplitFacts]], config: RunConfig) -> np.ndarray:
    """[rows], tokens of each row that a run trains on, of a task or of several that share rows.

    Args:
        tasks: their definitions.
        splits: the statistics of the train splits of each.
        config: the run.
    """
    tokenized = next((own for own in splits if reads_all_sequences(own[0].task)), splits[0])
    lengths = np.concatenate([each.lengths for each in tokenized])
    ids = [name for each in splits[0] for name in each.ids]
    labelled = _labelled(splits)
    if labelled is not None and not labelled.all():
        lengths, ids = lengths[labelled], [name for name, known in zip(ids, labelled, strict=True) if known]
    if training_rows(config, tasks[0], len(lengths)) == len(lengths):
        return lengths
    chosen: np.ndarray = lengths[rows_trained_on(config, tasks[0], ids)]
    return chosen
