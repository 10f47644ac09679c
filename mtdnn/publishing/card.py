"""The model card of a run: its tasks, data, results with intervals, settings, and how it was made."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtdnn.config.run import EncoderSource, RunConfig
from mtdnn.config.task import Distill
from mtdnn.config.tasks import TaskDef
from mtdnn.config.yaml_source import dump_yaml
from mtdnn.data.manifest import Manifest, read_manifest
from mtdnn.errors import DataError, fault
from mtdnn.metrics.base import SCALES, Scales
from mtdnn.metrics.labels import OF_QUESTIONS
from mtdnn.metrics.records import RecordFiles
from mtdnn.publishing.intervals import intervals
from mtdnn.report.document import as_code, escaped
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.hub import hub_name, on_hub
from mtdnn.task_types.base import TASK_TYPES

NO_HUB_TASK, OF_TOKENS = "other", "token-classification"
UNKNOWN_DATA = "not known: the prepared rows are no longer where the run read them"


@dataclass(frozen=True)
class Result:
    """One metric of a split: its value and the ends of its 95 % interval, both None without predictions."""

    task: str
    split: str
    metric: str
    value: float
    rows: int
    low: float | None = None
    high: float | None = None


def model_card(
    run: RunFolder, *, checkpoint: str, step: int, name: str, license: str | None = None, task: str | None = None
) -> str:
    """The text of a run's README.md on the hub: YAML for the hub, then Markdown for people.

    Args:
        run: its folder.
        checkpoint: best, last or step-N: the weights that are published.
        step: of these weights; the card has their results alone.
        name: of the repository, `user/name`.
        license: an identifier of the hub, such as `mit`; None = not stated.
        task: the only task that is published, as a model of transformers; None = the whole run.
    Raises:
        DataError: the run has no results of these weights.
    """
    results = run.read_results()
    if not results:
        fix = "Let `mtdnn train` finish, or run `mtdnn evaluate`."
        raise DataError(fault(str(run.path), "", "has no results to put into a model card", fix))
    config, tasks = run.read_config(), run.read_tasks()
    shown = {key: each for key, each in tasks.items() if task in (None, key)}
    own = results_of_step(results, step)
    if any(results.get(key) for key in shown) and not any(own.get(key) for key in shown):
        found_at = f"has no results of {checkpoint} (step {step}) to put into a model card, but of other checkpoints"
        fix = f"Run: mtdnn evaluate {shlex.quote(str(run.path))} --checkpoint {checkpoint}"
        raise DataError(fault(str(run.path), "", found_at, fix))
    found = list(results_of(run, own, shown))
    scales = Scales(results.get(SCALES))
    title = name.split("/")[-1]
    parts = [
        f"---\n{dump_yaml(_front_matter(config, shown, found, license=license, whole=task is None, title=title))}---",
        f"# {escaped(title)}",
        _opening(config, shown, whole=task is None),
        f"## How to use it\n\n{_usage(name, shown, whole=task is None)}",
        f"## Tasks\n\n{_task_table(shown)}",
        f"## Data\n\n{_data_table(config, shown)}",
        f"## Results\n\n{_result_table(found, scales)}",
        f"## Settings\n\n{_settings(config, whole=task is None)}",
        f"## How it was made\n\n{_provenance(results, step)}",
        f"## Limits\n\n{_limits(config, shown, license, checkpoint=checkpoint)}",
    ]
    return "\n\n".join(parts) + "\n"


def results_of_step(results: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The results of the weights of one step; those of a split may be of another checkpoint, measured later.

    Args:
        results: of the run's results.json.
        step: of the weights.
    """
    makers, latest = results.get("_made_by", {}), results.get("_run", {})

    def is_of_step(task: str, split: str) -> bool:
        made = makers.get(task, {}).get(split, latest)
        return bool(made.get("step", step) == step)  # the first versions noted no step

    return {
        task: {split: values for split, values in splits.items() if is_of_step(task, split)}
        for task, splits in results.items()
        if not task.startswith("_")
    }


def results_of(run: RunFolder, results: Mapping[str, Any], tasks: Mapping[str, TaskDef]) -> Iterator[Result]:
    """Every metric of every split of these tasks, with an interval where the predictions are in the run's folder."""
    for task in tasks:
        for split, values in results.get(task, {}).items():
            path = run.prediction_file(task, split)
            metrics = {metric: float(value) for metric, value in values.items() if metric != "rows"}
            found = intervals(metrics, RecordFiles(path), tasks[task].labels) if path.is_file() else {}
            for metric, value in metrics.items():
                low, high = found.get(metric, (None, None))
                yield Result(task, split, metric, value, int(values.get("rows", 0)), low, high)


def _front_matter(
    config: RunConfig,
    tasks: Mapping[str, TaskDef],
    results: Sequence[Result],
    *,
    license: str | None,
    whole: bool,
    title: str,
) -> dict[str, Any]:
    """What the hub reads: licence, library, base model, kind of task, and the results."""
    kinds = list(dict.fromkeys(map(_hub_task, tasks.values())))
    named = config.encoder if isinstance(config.encoder, str) and on_hub(config.encoder) else None
    datasets = [task.source.path for task in tasks.values() if task.source and on_hub(task.source.path)]
    front: dict[str, Any] = {"license": license} if license else {}
    front["library_name"] = "mtdnn" if whole else "transformers"
    front["tags"] = ["mtdnn", "multi-task-learning"]
    front |= {"base_model": named} if named else {}
    front |= {"pipeline_tag": kinds[0]} if len(kinds) == 1 and kinds[0] != NO_HUB_TASK else {}
    front |= {"datasets": list(dict.fromkeys(datasets))} if datasets else {}
    measured = [
        {
            "task": {"type": _hub_task(tasks[each.task]), "name": each.task},
            "dataset": {"name": each.task, "type": each.task, "split": each.split},
            "metrics": [{"type": each.metric, "value": round(each.value, 6)}],
        }
        for each in results
    ]
    return front | ({"model-index": [{"name": title, "results": measured}]} if measured else {})


def _hub_task(task: TaskDef) -> str:
    """The hub's word for a task's type."""
    return TASK_TYPES.get(task.task_type, where=task.where("task_type"), key=f"{task.name}.task_type").hub_task


def _opening(config: RunConfig, tasks: Mapping[str, TaskDef], *, whole: bool) -> str:
    source = config.encoder
    if isinstance(source, EncoderSource):
        start = f"an earlier run ({as_code(_named(source.run))})"
    else:
        start = as_code(_named(source))
    if not whole:
        (task,) = tasks
        return (
            f"`{task}`, one task of a multi-task run of [mtdnn](#how-it-was-made), as a model of transformers. It "
            f"started from {start}."
        )
    heads = f"{len(tasks)} tasks" if len(tasks) > 1 else "one task"
    return f"One encoder, fine-tuned from {start} on {heads} by [mtdnn](#how-it-was-made), with a head for each."


def _named(encoder: str) -> str:
    """The encoder without the folders of the machine it was trained on."""
    return encoder if hub_name(encoder) else Path(encoder).name


def _usage(name: str, tasks: Mapping[str, TaskDef], *, whole: bool) -> str:
    first = next(iter(tasks.values()))
    if not whole:
        return _usage_of_model(name, first)
    texts = ", ".join(json.dumps(f"{column} …", ensure_ascii=False) for column in first.inputs)
    return (
        f'```python\nimport mtdnn\n\nrun = mtdnn.open_run("{name}")\n'
        f'records = run.predict("{first.name}", [({texts},)])\n```\n\n'
        f"In a shell: `mtdnn predict {name} --task {first.name} --input rows.tsv --output out.jsonl`. To start another "
        f"run from its encoder: `encoder: {name}`; from encoder and heads: `encoder: {{run: {name}, heads: keep}}`."
    )


def _usage_of_model(name: str, task: TaskDef) -> str:
    """Code that loads one task as a model of transformers, and gives it a row."""
    task_type = TASK_TYPES.get(task.task_type)(task)
    texts = ", ".join(json.dumps(text, ensure_ascii=False) for text in task_type.shown_texts)
    kind = f"{'Token' if task_type.hub_task == OF_TOKENS else 'Sequence'}Classification"
    answer = "logits = model(**inputs).logits"
    if task_type.needs_decoder:
        kind = "Seq2SeqLM"
        answer = "text = tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True)"
    return (
        f"```python\nfrom transformers import AutoModelFor{kind}, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")\n'
        f'model = AutoModelFor{kind}.from_pretrained("{name}").eval()\n'
        f'inputs = tokenizer({texts}, return_tensors="pt")\n{answer}\n```'
    )


def _task_table(tasks: Mapping[str, TaskDef]) -> str:
    lines = [("task", "type", "texts of a row", "labels", "rows are cut at, tokens")]
    for name, task in tasks.items():
        kind = f"{task.task_type}, by the head of {task.head_of}" if task.head_of else task.task_type
        lines.append((name, kind, ", ".join(task.inputs), ", ".join(task.labels), str(task.max_length)))
    return table_of(lines)


def _data_table(config: RunConfig, tasks: Mapping[str, TaskDef]) -> str:
    lines = [("task", "split", "rows", "truncated", "source", "SHA-256 of the source")]
    for name, task in tasks.items():
        for split in task.split_names:
            manifest = _manifest(Path(config.data) / name / split)
            if manifest is not None:
                digest = str(manifest.source["sha256"])[:16]
                source = _source(task, manifest)
                lines.append((name, split, str(manifest.rows), str(manifest.truncated_rows), source, digest))
    sizes = {name: each.rows or f"{each.fraction:g} of the" for name, each in config.subset.items() if name in tasks}
    subset = [f"`{name}`: {size} rows" for name, size in sizes.items()]
    note = f"\n\nTrained on a part of the training rows of {', '.join(subset)}." if subset else ""
    return (table_of(lines) if len(lines) > 1 else f"{UNKNOWN_DATA}.".capitalize()) + note


def _manifest(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder)
    except DataError:  # a card without this line is still useful
        return None


def _source(task: TaskDef, manifest: Manifest) -> str:
    """The data set on the hub, or the name of the file; not the folders of the machine."""
    if task.source is not None:
        path = task.source.path
        return " ".join(filter(None, (path if on_hub(path) else Path(path).name, task.source.name)))
    return "rows in memory" if manifest.source.get("in_memory") else Path(str(manifest.source.get("path", ""))).name


def _result_table(results: Sequence[Result], scales: Scales) -> str:
    lines = [("task", "split", "metric", "value", "95 % interval", "rows")]
    for each in results:
        shown = scales[each.metric].shown
        between = "–" if each.low is None or each.high is None else f"{shown(each.low)} to {shown(each.high)}"
        lines.append((each.task, each.split, each.metric, shown(each.value), between, str(each.rows)))
    of = "rows, or questions with all of their rows," if OF_QUESTIONS in {each.metric for each in results} else "rows"
    note = (
        f"Rates and correlations in percent. The intervals are percentile bootstraps over the {of} of a split: they "
        "show how much a figure depends on which rows were measured, not how much on the seed of training."
    )
    return f"{table_of(lines)}\n\n{note}"


def _settings(config: RunConfig, *, whole: bool) -> str:
    """What differs from the defaults, as in a run's YAML; without paths of the machine it was trained on."""
    config = config.model_copy(update={"distill": without_places_of_teachers(config.distill)})
    values = config.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    kept = {key: value for key, value in values.items() if key not in ("tasks", "data", "output")}
    source = config.encoder
    kept["encoder"] = _named(source) if isinstance(source, str) else {**kept["encoder"], "run": _named(source.run)}
    rest = "; `run.yml` has every key" if whole else ""
    return f"What differs from the defaults of mtdnn{rest}.\n\n```yaml\n{dump_yaml(kept)}```"


def without_places_of_teachers(distill: Mapping[str, Distill]) -> dict[str, Distill]:
    """The teachers' files by their names alone."""
    return {
        task: each.model_copy(update={"from_": tuple(Path(file).name for file in each.from_)})
        for task, each in distill.items()
    }


def _provenance(results: Mapping[str, Any], step: int) -> str:
    made = results.get("_run", {})
    packages = ("mtdnn", "python", "torch", "transformers", "tokenizers", "datasets")
    versions = [f"{key} {made[key]}" for key in packages if key in made]
    return (
        f"Checkpoint of step {step}, seed {made.get('seed', 'unknown')}, commit "
        f"`{made.get('commit', 'unknown')}` of mtdnn; {', '.join(versions)}.\n\n"
        "```sh\nmtdnn prepro tasks.yml --data DATA --encoder ENCODER --out PREPARED\n"
        "mtdnn train run.yml --tasks tasks.yml --data PREPARED --encoder ENCODER --output RUN\n```"
    )


def _limits(config: RunConfig, tasks: Mapping[str, TaskDef], license: str | None, *, checkpoint: str) -> str:
    is_chosen = checkpoint == "best" and config.evaluate_every != "never"
    is_chosen = is_chosen and any(task.splits.get("dev") for task in tasks.values())
    lines = [
        "It was measured on the splits above and on nothing else: not on other domains, languages or kinds of text.",
        "One run with one seed; another seed gives other figures.",
    ]
    if is_chosen:
        lines.append("The checkpoint was chosen by the dev splits, so that their figures are slightly too good.")
    cut = ", ".join(f"{name} {task.max_length}" for name, task in tasks.items())
    lines.append(f"Longer rows are cut; the limits in tokens: {cut}.")
    lines.append("Biases of its training rows and of its encoder are in it; this card does not measure them.")
    lines.append(f"Licence: {escaped(license)}." if license else "Its licence is not stated: ask before you use it.")
    return "\n".join(f"- {line}" for line in lines)


def table_of(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first line is its head, and no cell can end a cell or a line."""
    head, *rest = ["| " + " | ".join(map(_cell, line)) + " |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(lines[0]), *rest])


def _cell(text: str) -> str:
    return escaped(" ".join(text.split()))
