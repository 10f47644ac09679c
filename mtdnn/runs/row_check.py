"""Task definitions and their rows → every error in one report, and statistics of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mtdnn.config.arguments import keywords_checked
from mtdnn.config.run import RunConfig, no_run, run_config_of, run_source
from mtdnn.config.tasks import Definitions, TaskDef, read_task_defs
from mtdnn.config.yaml_source import YamlSource
from mtdnn.data.jobs import block_faults, part_faults, readable_jobs
from mtdnn.data.sharing import sharing_faults, unlabelled_fault
from mtdnn.errors import ConfigError, Fault, MtdnnError, fault
from mtdnn.metrics.base import selection_faults
from mtdnn.registry import trusting
from mtdnn.rows.places import Data
from mtdnn.runs.check_length import add_length
from mtdnn.runs.check_report import Report, SplitFacts
from mtdnn.runs.inspection import inspect_splits
from mtdnn.runs.named import measured_tasks, selecting_tasks, task_faults, trained_tasks
from mtdnn.runs.plug_ins import plug_in_faults, rest_faults
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.tokens.loading import load_tokenizer
from mtdnn.tokens.tokenizer import Tokenizer

T = TypeVar("T")


@keywords_checked()
@trusting
def check(
    tasks: Definitions,
    *,
    data: Data = None,
    encoder: str | Path | None = None,
    run: str | Path | RunConfig | Mapping[str, Any] | None = None,
    num_workers: int | None = None,
    trust: bool = False,
) -> Report:
    """A report on task definitions, their rows, and a run: every error, and statistics of the rows.

    Args:
        tasks: a YAML file of task definitions, or task name → `TaskDef` or block.
        data: folder of the rows, or task → split → rows in memory, as for `prepare`; without it only the definitions,
            and rows of a `source`, are checked.
        encoder: hub name or folder, for lengths in tokens; None = that of `run`, if given.
        run: a run, its YAML file, or the mapping that would be in one: batches of an epoch are counted, regularizers
            and teachers are checked.
        num_workers: processes; None = one per core.
        trust: allow dotted paths in the files, which import code.
    Returns:
        The report: `faults`, `warnings`, statistics of every split; as text, its tables.
    Raises:
        ConfigError: a file cannot be read as a whole.

    Example:
        >>> import mtdnn
        >>> report = mtdnn.check("tasks.yml", data="data", encoder="encoder")
        >>> report.faults
        []
        >>> {facts.name: facts.rows for facts in report.splits}
        {'rte/train': 8, 'rte/dev': 4, 'mrpc/train': 8, 'mrpc/dev': 4}
    """
    blocks, source = read_task_defs(tasks), _source_of(run)
    faults, of_arguments = [*blocks.faults, *part_faults(blocks.parts)], list[Fault]()
    config = run if isinstance(run, RunConfig) else None if run is None else _run_or_faults(source, faults)
    usable = config or no_run()
    name = encoder or (usable.encoder if isinstance(usable.encoder, str) else "")
    tokenizer = _or_fault(partial(load_tokenizer, name), of_arguments if encoder else faults) if name else None
    if name and tokenizer is None:  # then there are no weights either
        usable, encoder = usable.model_copy(update={"encoder": ""}), None
    given = None if run is None else config
    report = report_on(blocks.tasks, data=data, tokenizer=tokenizer, run=given, num_workers=num_workers)
    faults += report.faults
    if given is not None:
        faults += task_faults(given, blocks.tasks, blocks.others) + _selection_faults(blocks.tasks, given)
        faults += _source_faults(blocks.tasks, given)
    faults += _training_faults(blocks.tasks, usable, None if encoder is None else str(encoder))
    faults += [] if config is None else plug_in_faults(config)
    report.faults = list(dict.fromkeys([*of_arguments, *map(source.placed, faults)]))
    report.warnings = list(map(source.placed, report.warnings))
    return report


def _or_fault(make: Callable[[], T], faults: list[Fault]) -> T | None:
    """The function's result; on an error None, and its errors are added to `faults`."""
    try:
        return make()
    except MtdnnError as error:
        faults += error.faults
        return None


def _run_or_faults(source: YamlSource, faults: list[Fault]) -> RunConfig | None:
    """The run in a document; if it is malformed None, and its errors and those of its plug-ins are added to
    `faults`."""
    try:
        return run_config_of(source)
    except ConfigError as error:
        faults += [*error.faults, *rest_faults(source, error)]
        return None


def _source_of(run: str | Path | RunConfig | Mapping[str, Any] | None) -> YamlSource:
    """The document of a run; for no run, or one made in Python, a document without places."""
    if isinstance(run, Mapping):
        return YamlSource(path="", value=dict(run))
    return run_source(run) if isinstance(run, (str, Path)) else YamlSource(path="", value={})


def _training_faults(tasks: Mapping[str, TaskDef], config: RunConfig, encoder: str | None) -> list[Fault]:
    """Errors of the tasks' regularizers and teachers. PyTorch is loaded only if there are any."""
    named = [config.regularizer, *(task.regularizer for task in tasks.values() if not task.regularizer_off)]
    if not (any(named) or config.distill or any(task.distill for task in tasks.values())):
        return []
    from mtdnn.runs.faults import objective_faults, soft_label_faults

    chosen = trained_tasks(config, tasks)
    return objective_faults(chosen, config, encoder=encoder) + soft_label_faults(chosen, config)


def _source_faults(tasks: Mapping[str, TaskDef], config: RunConfig) -> list[Fault]:
    """Errors of the earlier run that a run starts from. PyTorch is loaded only if it is asked for one."""
    chosen = measured_tasks(config, tasks)
    if isinstance(config.encoder, str) and not any(task.init_head for task in chosen.values()):
        return []
    from mtdnn.runs.faults import source_faults

    return source_faults(chosen, config)


def report_on(
    tasks: Mapping[str, TaskDef],
    *,
    data: Data,
    tokenizer: Tokenizer | None = None,
    run: RunConfig | None = None,
    num_workers: int | None = None,
) -> Report:
    """A report on tasks and their rows. Nothing is written; twenty bytes per row are kept in memory.

    Args:
        tasks: name → definition.
        data: folder of the rows, or rows in memory.
        tokenizer: of the run's encoder.
        run: decides how many batches an epoch has; None = the defaults.
        num_workers: processes; None = one per core.
    """
    report = Report(lengths_in="words" if tokenizer is None else "tokens", tasks=tasks)
    sound = {}
    for name, task in tasks.items():
        found = block_faults(task, tokenizer)
        report.faults += found
        report.warnings += [] if tokenizer is None else tokenizer.length_warnings(task)
        if not found:
            sound[name] = task
    report.faults += sharing_faults(sound)
    placed = {name: task for name, task in sound.items() if data is not None or task.source is not None}
    jobs, missing = readable_jobs(placed, data, warn=report.warnings.append)
    report.faults += missing
    inspect_splits(jobs, tokenizer, report, run, num_workers)
    report.faults += [
        unlabelled_fault(facts.task, facts.split)
        for facts in report.splits
        if facts.task.rows is not None and "train" in facts.roles and facts.whole and not facts.labelled.any()
    ]
    for task in placed.values():
        report.warnings += _warnings(task, [facts for facts in report.splits if facts.task is task])
    add_length(sound, run, report)
    return report


def _selection_faults(tasks: Mapping[str, TaskDef], run: RunConfig) -> list[Fault]:
    """Errors if the run cannot select its best checkpoint by the mean over its tasks; invalid blocks are left out."""
    chosen = selecting_tasks(run, measured_tasks(run, tasks)).values()
    measured = [task for task in chosen if task.splits.get("dev") and not block_faults(task)]
    main = {task.name: TASK_TYPES.get(task.task_type)(task).metric_names[0] for task in measured}
    return selection_faults(main, run.select_by)


def _warnings(task: TaskDef, splits: list[SplitFacts]) -> Iterator[Fault]:
    """Labels without a train row, unlabelled dev rows, and dev or test rows that are also train rows."""
    train = [facts for facts in splits if "train" in facts.roles]
    counts: Counter[str] = sum((facts.counts for facts in train), Counter())
    absent = [label for label in task.labels if counts and not counts[label]]
    if absent:
        yield task.fault("labels", f"no train row has the label '{absent[0]}'", "The model cannot learn it.")
    seen = np.unique(np.concatenate([facts.texts for facts in train])) if train else np.empty(0, np.uint64)
    for facts in splits:
        if "dev" in facts.roles and facts.unlabelled:
            yield fault(
                facts.name, "label", f"{facts.unlabelled} of {facts.rows} dev rows have none", "They are not measured."
            )
        if facts.numbers.keys() == {-1.0} and facts.rows > 1:
            found = f"all {facts.numbers.total()} are -1, which the hub uses for missing labels"
            yield fault(facts.name, "label", found, "Leave them empty, or metrics are computed from them.")
        if facts.words_without_token:
            word, count = facts.words_without_token.most_common(1)[0]
            found = f"{facts.words_without_token.total()} words have no token, {word!r} ({count}) most often"
            yield fault(
                facts.name,
                task.inputs[0],
                found,
                "They are ignored, since the encoder's tokenizer drops them.",
            )
        overlap = int(np.isin(facts.texts, seen).sum()) if facts not in train else 0
        if overlap:
            found = f"{overlap} of {facts.rows} rows have the same texts as a train row"
            yield fault(facts.name, "", found, "Metrics on them measure memory.")
