"""The folder of a run → its report: results, learning curves, the regularizer's terms, errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from mtdnn.config.options import Named
from mtdnn.config.run import EncoderSource, RunConfig
from mtdnn.config.tasks import TaskDef
from mtdnn.errors import DataError, MtdnnError, fault
from mtdnn.metrics.base import SCALES, Scales
from mtdnn.metrics.records import RecordFiles
from mtdnn.report.balance import balance_section
from mtdnn.report.document import Block, Document, Heading, Picture, Table, Text, row
from mtdnn.report.pictures import Panel, Point, Series, line_panels
from mtdnn.report.read import prediction_files, read_curves, types_of_tasks
from mtdnn.report.sections import (
    agreement_section,
    confusion_section,
    label_section,
    loss_section,
    unknown_scales_note,
    worst_section,
)
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.named import trained_tasks
from mtdnn.study.statistics import COUNTS

NO_METHOD = ("task", "proximal", "gradient", "gradient_norm", "balance", "steps")
"""Prefixes of a task's values in the log that are not those of a regularizer."""

NOT_MEASURED = "not measured: no row has a label"


TERMS = {
    "method": "",
    "penalty": "Penalty: the regularizer's, without its weight.",
    "perturbation": "Perturbation: its root mean square, in units of the embeddings'.",
    "clipped": "Clipped: the share of its coordinates clipped by the limit, in percent.",
    "proximal": "Proximal: the proximal term, without its factor.",
    "drift": "Drift: ‖θ − θ̃‖/‖θ̃‖, the distance of the weights θ from the teacher's θ̃.",
    "∇ task": "∇: the norm of each weighted term's gradient, as a share of the sum of these norms, in percent.",
    "∇ penalty": "",
    "∇ proximal": "",
}
"""Columns of the table of further terms of the loss → their description in the note below it."""


def run_document(
    folder: Path, *, annotators: Mapping[str, Sequence[str]], worst: int, together: Sequence[Block] = ()
) -> Document:
    """The report of one run.

    Args:
        together: the section that compares it with runs of single tasks.
        folder: of the run.
        annotators: row id → the annotators' labels.
        worst: how many of the worst errors to show.
    Raises:
        DataError: it has no results yet.
    """
    run = RunFolder(folder)
    config, results = run.read_config(), run.read_results()
    if not results:
        raise DataError(
            fault(str(folder), "", "has no results yet", "Let `mtdnn train` finish, or run `mtdnn evaluate`.")
        )
    document = Document(f"Run {folder.resolve().name}")
    document.add(
        Text(_introduction(run, config, results.get("_run", {}))),
        *_results(results),
        *together,
        *_dev_curves(folder, Scales(results.get(SCALES))),
        *loss_section({"": [folder]}),
        *_terms(folder),
        *balance_section(folder),
        *_prediction_sections(folder, annotators=annotators, worst=worst),
    )
    return document


def _introduction(run: RunFolder, config: RunConfig, made_by: Mapping[str, object]) -> str:
    """What was trained how, and which checkpoint the results are of."""
    start = config.encoder.run if isinstance(config.encoder, EncoderSource) else config.encoder
    length = f"{config.max_steps} steps" if config.max_steps else f"{config.epochs:g} epochs"
    return (
        f"Encoder `{start}`, {length}, batches of {config.batch_size}, {config.optimizer.name} at "
        f"{config.optimizer.lr:g}, seed {config.seed}; checkpoint of step {made_by.get('step', '?')}, commit "
        f"`{made_by.get('commit', 'unknown')}`.{_added_terms(config, _trained_tasks(run, config))}"
    )


def _prediction_sections(folder: Path, *, annotators: Mapping[str, Sequence[str]], worst: int) -> list[Block]:
    """What the run's predictions show: confusions, scores of labels, agreement with annotators, worst errors."""
    records = {place: RecordFiles(path) for place, path in prediction_files(folder).items()}
    types = types_of_tasks(folder)
    labels = {task: task_type.confusion_labels for task, task_type in types.items()}
    return [
        *confusion_section({place: {"": found} for place, found in records.items()}, labels),
        *label_section(records, types),
        *(_agreement(records, annotators, labels) if annotators else ()),
        *worst_section({place: {folder: found} for place, found in records.items()}, types, count=worst),
    ]


def _agreement(
    records: Mapping[tuple[str, str], RecordFiles],
    annotators: Mapping[str, Sequence[str]],
    labels: Mapping[str, Sequence[str]],
) -> list[Block]:
    """The agreement of the run with the annotators, of each split of the tasks with labels.

    Splits stay apart, as ids are unique within one only.
    """
    tasks: dict[str, dict[str, list[list[RecordFiles]]]] = {}
    for (task, split), found in records.items():
        if labels.get(task):
            tasks.setdefault(task, {})[split] = [[found]]
    return agreement_section(tasks, annotators, labels)


def _trained_tasks(run: RunFolder, config: RunConfig) -> dict[str, TaskDef]:
    """The tasks a run was trained on; empty if their definitions are not available."""
    try:
        tasks = run.read_tasks()
    except (MtdnnError, OSError):  # a report without them is still useful
        return {}
    return trained_tasks(config, tasks)


def _added_terms(config: RunConfig, tasks: Mapping[str, TaskDef]) -> str:
    """A sentence on the regularizers, of the run and of single tasks, and on the proximal term.

    Empty without either.
    """
    methods = [] if config.regularizer is None else [_as_written(config.regularizer)]
    for name, task in tasks.items():
        own = None if task.regularizer_off else task.regularizer or config.regularizer
        if own != config.regularizer:
            methods.append(f"of `{name}` {'none' if own is None else _as_written(own)}")
    explanation = [f"regularizer {', '.join(methods)}"] if methods else []
    explanation += [] if config.proximal is None else [f"proximal term {_as_written(config.proximal)}"]
    sentence = "; ".join(explanation)
    return f" {sentence[0].upper()}{sentence[1:]}." if sentence else ""


def _as_written(named: Named) -> str:
    """A plug-in as in YAML, on one line, set as code: `smart`, or `{name: smart, weight: 3}`."""
    if not named.options:
        return f"`{named.name}`"
    written = {"name": named.name, **named.options}
    text = yaml.safe_dump(written, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf"))
    return f"`{text.strip()}`"


def _results(results: Mapping[str, Mapping]) -> list[Heading | Table | Text]:
    lines, scales, names = [], Scales(results.get(SCALES)), dict[str, None]()
    for task, splits in results.items():
        if task.startswith("_"):
            continue
        for split, values in splits.items():
            names |= {name: None for name in values if name not in COUNTS}
            metrics = [f"{name} {scales[name].shown(value)}" for name, value in values.items() if name not in COUNTS]
            lines.append(row(task, split, str(values.get("rows", "")), " · ".join(metrics) or NOT_MEASURED))
    caption = "Values with one decimal are in percent, others unchanged."
    blocks: list[Heading | Table | Text] = [Heading("Results")]
    blocks.append(Table(["task", "split", "rows", "metrics"], lines, caption=caption, words=[1, 3]))
    return [*blocks, *unknown_scales_note(scales.unknown(names))]


def _dev_curves(folder: Path, scales: Scales) -> list[Heading | Picture]:
    """Each task's main dev metric over the run, if it was evaluated more than once."""
    panels = []
    for task, splits in read_curves(folder).dev.items():
        found = {split: [name for name in metrics if name not in COUNTS] for split, metrics in splits.items()}
        main = next((names[0] for names in found.values() if names), "")
        series = [
            Series(split, [Point(step, scales[main].factor * value) for step, value in metrics[main]])
            for split, metrics in splits.items()
            if main in metrics
        ]
        if any(len(each.points) > 1 for each in series):
            panels.append(Panel(task, series, "step", scales[main].unit(main)))
    if not panels:
        return []
    caption = "The main metric of each task on its dev splits, over the run."
    return [Heading("Dev metrics"), Picture("dev", line_panels(panels, name="dev"), caption)]


def _terms(folder: Path) -> list[Heading | Table | Text]:
    """The last values in the log of each task's regularizer and of the proximal term; empty for a run without them."""
    tasks = {task: _last_terms(values) for task, values in read_curves(folder).losses.items()}
    found = {column for terms in tasks.values() for column in terms}
    if not found:
        return []
    columns = [*(column for column in TERMS if column in found), *sorted(found - TERMS.keys())]
    lines = [row(task, *(terms.get(column, "–") for column in columns)) for task, terms in tasks.items() if terms]
    explanation = " ".join(TERMS[column] for column in columns if TERMS.get(column))
    note = f"The last value of each in the log; a dash if there is none. {explanation}"
    words = [1] if columns[0] == "method" else []
    table = Table(["task", *columns], lines, words=words)
    return [Heading("Regularizer and proximal term"), table, Text(note, note=True)]  # a caption would scroll with it


def _last_terms(values: Mapping[str, Sequence[tuple[int, float]]]) -> dict[str, str]:
    """Column → text, from one task's values in the log; empty without a regularizer and a proximal term."""
    last = {name: points[-1][1] for name, points in values.items()}
    method = next((first for name in last if (first := name.partition(".")[0]) not in NO_METHOD), "")
    if not method and "proximal" not in last:
        return {}
    columns = {
        method: "penalty",
        **{name: name.partition(".")[2] for name in last if method and name.startswith(f"{method}.")},
        "proximal": "proximal",
        "proximal.drift": "drift",
        "gradient.task": "∇ task",
        f"gradient.{method}": "∇ penalty",
        "gradient.proximal": "∇ proximal",
    }
    numbers = _with_shares(last)
    found = {columns[name]: numbers[name] for name in columns if name in numbers}
    texts = {column: f"{100 * value if _is_share(column) else value:.3g}" for column, value in found.items()}
    return {"method": method, **texts} if method else texts


def _is_share(column: str) -> bool:
    return column == "clipped" or column.startswith("∇")


def _with_shares(values: Mapping[str, float]) -> dict[str, float]:
    """The values, with the norms of the terms' gradients as shares of their sum; left out for a single term."""
    norms = {name: value for name, value in values.items() if name.startswith("gradient.")}
    total = sum(norms.values()) if len(norms) > 1 else 0.0
    shares = {name: value / total for name, value in norms.items()} if total else {}
    return {name: value for name, value in values.items() if name not in norms} | shares
