"""Task definitions and their rows → every error in one report, and statistics of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mtdnn.config.run import RunConfig, run_config_of, run_source
from mtdnn.config.tasks import Definitions, TaskDef, read_task_defs, row_units
from mtdnn.config.yaml_source import YamlSource
from mtdnn.data.encode import MAX_REPORTED_ERRORS, Job, id_hash, map_parts
from mtdnn.data.jobs import block_faults, part_faults, readable_jobs
from mtdnn.data.samplers import Sampler
from mtdnn.data.sharing import reads_all_sequences, sharing_faults, unlabelled_fault
from mtdnn.data.split_faults import SplitFaults
from mtdnn.errors import ConfigError, DataError, Fault, fault, keywords_checked
from mtdnn.metrics.base import selection_faults
from mtdnn.registry import trusting
from mtdnn.rows.example import Example
from mtdnn.rows.places import Data
from mtdnn.rows.source import Part
from mtdnn.rows.summaries import number_counts
from mtdnn.runs.check_report import Report, SplitFacts
from mtdnn.runs.length import (
    RunLength,
    prepared_sampler,
    rows_trained_on,
    run_sampler,
    subset_faults,
    training_rows,
)
from mtdnn.runs.named import measured_tasks, selecting_tasks, task_faults, trained_tasks
from mtdnn.runs.plug_ins import plug_in_faults
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.tokens.tokenizer import Tokenizer, load_tokenizer

T = TypeVar("T")


@keywords_checked()
@trusting
def check(
    tasks: Definitions,
    *,
    data: Data = None,
    encoder: str | Path | None = None,
    run: str | Path | RunConfig | None = None,
    num_workers: int | None = None,
    trust: bool = False,
) -> Report:
    """A report on task definitions, their rows, and a run: every error, and statistics of the rows.

    Args:
        tasks: a YAML file of task definitions, or task name → `TaskDef` or block.
        data: folder of the rows, or task → split → rows in memory, as for `prepare`; without it only the definitions,
            and rows of a `source`, are checked.
        encoder: hub name or folder, for lengths in tokens; None = that of `run`, if given.
        run: a run, or its YAML file: batches of an epoch are counted, regularizers and teachers are checked.
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
    config = run if isinstance(run, RunConfig) else _or_fault(partial(run_config_of, source), faults)
    usable = config or run_config_of(_source_of(None))
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
    except ConfigError as error:
        faults += error.faults
        return None


def _source_of(run: str | Path | RunConfig | None) -> YamlSource:
    """The document of a run; for no run, or one made in Python, a document without places."""
    if isinstance(run, (str, Path)):
        return run_source(run)
    return YamlSource(path="", value={"tasks": "", "data": "", "output": "", "encoder": ""})


def _training_faults(tasks: Mapping[str, TaskDef], config: RunConfig, encoder: str | None) -> list[Fault]:
    """Errors of the tasks' regularizers and teachers. PyTorch is loaded only if there are any."""
    of_run = config.regularizer or config.distill
    if not (of_run or any(task.regularizer or task.distill for task in tasks.values())):
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
    _inspect(jobs, tokenizer, report, run, num_workers)
    report.faults += [
        unlabelled_fault(facts.task, facts.split)
        for facts in report.splits
        if facts.task.rows is not None and "train" in facts.roles and facts.whole and not facts.labelled.any()
    ]
    for task in placed.values():
        report.warnings += _warnings(task, [facts for facts in report.splits if facts.task is task])
    _add_length(sound, run, report)
    return report


def _selection_faults(tasks: Mapping[str, TaskDef], run: RunConfig) -> list[Fault]:
    """Errors if the run cannot select its best checkpoint by the mean over its tasks; invalid blocks are left out."""
    chosen = selecting_tasks(run, measured_tasks(run, tasks)).values()
    measured = [task for task in chosen if task.splits.get("dev") and not block_faults(task)]
    main = {task.name: TASK_TYPES.get(task.task_type)(task).metric_names[0] for task in measured}
    return selection_faults(main, run.select_by)


@dataclass(frozen=True)
class PartFacts:
    """Statistics and errors of the rows of a part; see `SplitFacts`."""

    faults: list[Fault]
    num_faults: int
    rows: int
    unlabelled: int
    counts: Counter[str]
    numbers: Counter[float]
    ids: np.ndarray
    texts: np.ndarray
    lengths: np.ndarray
    truncated: int
    words_without_token: Counter[str]
    names: list[str]
    labelled: np.ndarray


def inspect_part(job: Job, part: Part, tokenizer: Tokenizer | None, *, keep_ids: Collection[str] = ()) -> PartFacts:
    """Read the rows of a part, and encode them if there is a tokenizer.

    Args:
        job: a split of a task to prepare.
        part: consecutive rows of the split.
        tokenizer: of the run's encoder.
        keep_ids: tasks whose row ids are kept as text.
    """
    found = list(job.examples(part))
    faults = [each for each in found if isinstance(each, Fault)]
    examples = [each for each in found if isinstance(each, Example)]
    labels = [example.label for example in examples]
    parts = [each for label in labels if label is not None for each in job.task_type.counted_labels(label)]
    lengths, truncated, words_without_token = _lengths(job, examples, tokenizer)
    return PartFacts(
        faults=faults[:MAX_REPORTED_ERRORS],
        num_faults=len(faults),
        rows=len(examples),
        unlabelled=labels.count(None),
        counts=Counter(each for each in parts if isinstance(each, str)),
        numbers=number_counts(each for each in parts if isinstance(each, float)),
        ids=_hashes(example.id for example in examples),
        texts=_hashes("\x1f".join(example.texts) for example in examples),
        lengths=lengths,
        truncated=truncated,
        words_without_token=Counter(words_without_token),
        names=[example.id for example in examples] if job.task.name in keep_ids else [],
        labelled=np.array([label is not None for label in labels if job.task.rows is not None], dtype=np.bool_),
    )


def _lengths(job: Job, examples: list[Example], tokenizer: Tokenizer | None) -> tuple[np.ndarray, int, list[str]]:
    """[rows] tokens, number of truncated rows, and words without a token; without a tokenizer [rows] words, 0, none."""
    if tokenizer is None or not examples:
        words = (sum(len(text.split()) for text in example.texts) for example in examples)
        return np.fromiter(words, np.int32, len(examples)), 0, []
    columns: dict[str, Any] = job.encode(examples, tokenizer)
    lengths = columns["input_ids"].lengths.astype(np.int32)
    return lengths, int(np.count_nonzero(columns["truncated"])), job.task_type.words_without_token(examples, columns)


def _hashes(texts: Iterator[str]) -> np.ndarray:
    return np.fromiter(map(id_hash, texts), np.uint64)


def _inspect(
    jobs: list[Job], tokenizer: Tokenizer | None, report: Report, run: RunConfig | None, num_workers: int | None
) -> None:
    """Add the statistics and errors of every split."""
    parts = [job.parts() for job in jobs]
    work = partial(inspect_part, keep_ids=_chosen_by_length(jobs, run))
    found: dict[int, list[PartFacts]] = {}
    for index, facts in map_parts(work, jobs, parts, tokenizer, num_workers=num_workers):
        found.setdefault(index, []).append(facts)
    for index, job in enumerate(jobs):
        of_split = found[index]
        faults = SplitFaults()
        for each in of_split:
            faults.add(each.faults, each.num_faults, each.ids)
        collected = faults.collected(job)
        report.faults += collected
        report.splits.append(_joined(job, of_split, whole=not collected))


def _chosen_by_length(jobs: Sequence[Job], run: RunConfig | None) -> frozenset[str]:
    """The tasks of which the run trains on a part chosen by ids, with batches that depend on its lengths."""
    if run is None or run.max_tokens is None:
        return frozenset()
    return frozenset(job.task.name for job in jobs if job.task.max_rows or job.task.name in run.subset)


def _joined(job: Job, parts: list[PartFacts], *, whole: bool) -> SplitFacts:
    return SplitFacts(
        task=job.task,
        split=job.split,
        roles=tuple(role for role, names in job.task.splits.items() if job.split in names),
        rows=sum(each.rows for each in parts),
        unlabelled=sum(each.unlabelled for each in parts),
        truncated=sum(each.truncated for each in parts),
        words_without_token=sum((each.words_without_token for each in parts), Counter()),
        counts=sum((each.counts for each in parts), Counter()),
        numbers=sum((each.numbers for each in parts), Counter()),
        lengths=np.concatenate([each.lengths for each in parts]),
        texts=np.concatenate([each.texts for each in parts]),
        labelled=np.concatenate([each.labelled for each in parts]),
        ids=[name for each in parts for name in each.names],
        whole=whole,
    )


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


def _add_length(tasks: Mapping[str, TaskDef], run: RunConfig | None, report: Report) -> None:
    """Add the batches of each task in the first epoch and the steps of the run, by the sampler that training uses.

    The rows that were read are counted or, if none were, the rows prepared for the run.

    Args:
        tasks: those whose blocks have no error.
        run: None = the defaults, and no steps are counted.
        report: has the statistics of the rows; the results are added to it.
    """
    config = run or RunConfig(tasks="", data="", output="", encoder="")
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
